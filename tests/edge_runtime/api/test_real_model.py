"""The bundled models behind the API, asked by the `openai` client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from edge_runtime.api.session import Session
from tests.edge_runtime.api.api_helpers import GENEROUS, serving
from tests.edge_runtime.model_helpers import needs_bundled_embedder, needs_bundled_model


@needs_bundled_model
@needs_bundled_embedder
@pytest.mark.real_model
def test_the_real_model_answers_from_a_memory_and_embeds(tmp_path: Path) -> None:
    from edge_runtime.device import Device

    home = tmp_path / "home"
    Device.open(home, create=True, key_method="file").close()
    session = Session(home, threads=1, limits=GENEROUS)
    try:
        session.start_opening().result()
        session._worker.call(lambda: session._unlocked().memory.remember("My dog is called Bruno.")).result()
        with (
            serving(session) as address,
            openai.OpenAI(base_url=f"{address}/v1", api_key=session.token, max_retries=0) as client,
        ):
            ask: Any = client.chat.completions.create
            question = [{"role": "user", "content": "What is my dog called?"}]
            whole = ask(model="penchant", messages=question, max_tokens=20)
            assert "Bruno" in whole.choices[0].message.content
            assert whole.model_extra["penchant"]["sources"][0]["id"] == "memory:1"
            stream = ask(model="penchant", messages=question, max_tokens=20, stream=True)
            pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
            assert "".join(pieces) == whole.choices[0].message.content and len(pieces) > 3
            long = "Tell me a long story about the sea, the wind and an old ship."
            with ask(
                model="penchant-base", messages=[{"role": "user", "content": long}], max_tokens=900, stream=True
            ) as abandoned:
                next(iter(abandoned))
            after = ask(model="penchant", messages=question, max_tokens=20)
            assert after.choices[0].message.content == whole.choices[0].message.content
            vectors = client.embeddings.create(model="penchant", input=["a dog", "a hound"]).data
            assert len(vectors[0].embedding) == 384
    finally:
        session.close()
