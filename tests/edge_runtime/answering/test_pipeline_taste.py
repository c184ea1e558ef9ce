"""Answers by the owner's taste: the best of several, steering, guiding, the owner's token."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.answering import best_of, pipeline
from edge_runtime.answering.pipeline import AnswerOptions, Assistant, Stages
from edge_runtime.answering.user_vector import install_projection, installed_projection
from edge_runtime.device import Device
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.sampling import Sampling
from edge_runtime.reward.style import STYLE_NAMES
from edge_runtime.reward.taste import Taste
from protocol.bank import Bank
from protocol.errors import PenchantError
from protocol.feature_map import FeatureMap
from protocol.taste_release import TasteRelease
from tests.edge_runtime.answering.test_answering import RecordingEngine
from tests.edge_runtime.answering.test_user_vector import projection
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import open_tiny


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Device]:
    """A device whose owner likes to be asked, with a bank that knows questions."""
    with Device.open(tmp_path / "home", create=True, key_method="file", embedder=HashingEmbedder()) as device:
        space = FeatureMap(
            ("style",), "", "", np.zeros(len(STYLE_NAMES), np.float32), np.eye(len(STYLE_NAMES), dtype=np.float32)
        )
        questions = 4.0 * np.eye(len(STYLE_NAMES))[[STYLE_NAMES.index("questions")]]
        bank = Bank("reward", space.digest, np.zeros(len(STYLE_NAMES)), questions, np.ones(1), np.zeros((0, 1)))
        Taste(device).install(TasteRelease(bank, space))
        for number in range(8):
            device.feedback.add_preference(f"Day {number}?", f"Is it day {number}?", f"It is day {number}.")
        yield device


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> list[Sampling]:
    """Candidates without a model; the samplings that were asked for."""
    asked: list[Sampling] = []
    texts = ("It is open now.", "Is it open now?", "It is open today.")

    def candidates(
        engine: object, prompt: list[str], samplings: list[Sampling], *, max_tokens: int
    ) -> Generator[str, None, list[list[str]]]:
        asked.extend(samplings)
        yield ""
        return [[text] for text in texts[: len(samplings)]]

    monkeypatch.setattr(best_of, "candidates", candidates)
    return asked


def test_the_best_of_several_is_the_one_that_the_owner_would_like(owner: Device, offered: list[Sampling]) -> None:
    engine = RecordingEngine()
    conversation = owner.conversations.new()
    options = AnswerOptions(best_of=3)
    stream = Assistant(owner, engine).stream("The shop?", conversation=conversation, options=options)  # type: ignore[arg-type]
    assert list(stream.pieces) == ["", "Is it open now?"] and len(offered) == 3
    assert owner.conversations.turns(conversation)[-1].text == "Is it open now?"
    assert stream.audit.to_dict()["sampling"]["best_of"] == 3


def test_taste_switched_off_or_an_impersonal_answer_is_the_models_own(owner: Device) -> None:
    for stages, on in ((Stages(), False), (Stages(personalise=False), True)):
        Taste(owner).change(on=on)
        for options in (AnswerOptions(stages, best_of=3), AnswerOptions(stages, guide=1.0)):
            stream = Assistant(owner, RecordingEngine()).stream("The shop?", options=options)  # type: ignore[arg-type]
            assert "".join(stream.pieces) == "Your dog is Bruno. "
            assert "best_of" not in stream.audit.sampling


def test_the_best_of_several_without_a_release_is_refused_before_anything_is_kept(tmp_path: Path) -> None:
    with Device.open(tmp_path / "bare", create=True, key_method="file", embedder=HashingEmbedder()) as bare:
        conversation = bare.conversations.new()
        with pytest.raises(PenchantError, match="penchant taste install"):
            Assistant(bare, RecordingEngine()).stream(  # type: ignore[arg-type]
                "The shop?", conversation=conversation, options=AnswerOptions(best_of=2)
            )
        assert bare.conversations.turns(conversation) == []


def test_steering_uses_the_weights_times_both_strengths(owner: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float, list[ChatMessage]]] = []

    def answer(
        engine: object, messages: list[ChatMessage], weights: np.ndarray, strength: float, **_: object
    ) -> Iterator[str]:
        assert weights.tolist() == [0.5]
        asked.append((strength, messages))
        return iter([" Is", " it?"])

    monkeypatch.setattr(pipeline, "steered", answer)
    monkeypatch.setattr(Taste, "attribute_weights", lambda taste: np.array([0.5]))
    owner.memory.remember("The shop is in Ghent")
    Taste(owner).change(strength=2.0)
    for steer in (1.5, 3.0):
        stream = Assistant(owner, RecordingEngine()).stream("Where is the shop?", options=AnswerOptions(steer=steer))  # type: ignore[arg-type]
        assert "".join(stream.pieces) == "Is it?"
    assert [strength for strength, _ in asked] == [3.0, 4.0]
    assert "The shop is in Ghent" in asked[0][1][-1].content


def test_a_device_steers_a_real_decode(owner: Device, tmp_path: Path) -> None:
    with open_tiny(tmp_path) as engine:
        assistant = Assistant(owner, engine)

        def answer(**options: float) -> str:
            asked = AnswerOptions(Stages(retrieve=False, summarise=False), max_tokens=8, **options)  # type: ignore[arg-type]
            return "".join(assistant.stream("an in the", options=asked).pieces)

        plain = answer()
        assert answer(steer=4.0) != plain == answer()
        assert answer(best_of=3)


def test_a_device_guides_a_real_decode_with_a_release_for_its_model(owner: Device, tmp_path: Path) -> None:
    with open_tiny(tmp_path) as engine:
        assistant, width = Assistant(owner, engine), engine.embeddings_width

        def answer(guide: float) -> str:
            options = AnswerOptions(Stages(retrieve=False, summarise=False), max_tokens=8, guide=guide)
            return "".join(assistant.stream("an in the", options=options).pieces)

        with pytest.raises(PenchantError, match="hidden states"):
            answer(1.0)
        projection = np.random.default_rng(0).standard_normal((width, 4)).astype(np.float32)
        for base in (engine.model.sha256, "ab" * 32):
            space = FeatureMap(("hidden",), base, "", np.zeros(width, np.float32), projection)
            bank = Bank("reward", space.digest, 3.0 * np.ones(4), np.eye(4)[:1], np.ones(1), np.zeros((0, 1)))
            Taste(owner).install(TasteRelease(bank, space))
            if base == engine.model.sha256:
                assert answer(4.0) != answer(0.0)
            else:
                with pytest.raises(PenchantError, match="another model"):
                    answer(1.0)


@pytest.mark.parametrize(
    "wrong", [{"best_of": 0}, {"best_of": 33}, {"steer": -1.0}, {"best_of": 2, "steer": 1.0}, {"steer": 1, "guide": 1}]
)
def test_options_of_taste_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(PenchantError, match="best_of"):
        AnswerOptions(**wrong)  # type: ignore[arg-type]


def test_the_owners_token_stands_before_the_prompt_only_if_asked_for(owner: Device, tmp_path: Path) -> None:
    with open_tiny(tmp_path) as engine:
        owner.memory.remember("my hound is called Bo")
        assistant, plain_options = Assistant(owner, engine), AnswerOptions(max_tokens=8)

        def answer(options: AnswerOptions) -> tuple[str, dict[str, object]]:
            stream = assistant.stream("an in the", options=options)
            return "".join(stream.pieces), stream.audit.sampling

        plain, _ = answer(plain_options)
        with pytest.raises(PenchantError, match="keeps no user projection"):
            answer(replace(plain_options, user_vector=True))
        own = projection(engine.embeddings_width, base=engine.model.sha256)
        install_projection(owner, own.to_bytes())
        text, sampling = answer(replace(plain_options, user_vector=True))
        kept = installed_projection(owner)
        assert kept is not None and sampling["user_vector"] == kept.digest
        assert text != plain == answer(plain_options)[0]
        impersonal = Stages(personalise=False)
        assert "user_vector" not in answer(replace(plain_options, user_vector=True, stages=impersonal))[1]
        with pytest.raises(PenchantError, match="plain answers"):
            AnswerOptions(user_vector=True, best_of=2)
