"""A device's taste: settings, release, weights that follow the choices, what is told of them, and forgetting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.answering.attributes import ATTRIBUTES
from edge_runtime.device import Device
from edge_runtime.forgetting import forget, forget_everything
from edge_runtime.reward.style import STYLE_NAMES, style_features
from edge_runtime.reward.taste import MOST_CHOICES, Taste, explained
from edge_runtime.store.vault import LEARNT_PREFIX
from protocol.bank import Bank
from protocol.errors import PenchantError
from protocol.feature_map import FeatureMap
from protocol.taste_release import TasteRelease
from tests.edge_runtime.memory_helpers import HashingEmbedder

K = len(STYLE_NAMES)
QUESTIONS, WARM = STYLE_NAMES.index("questions"), STYLE_NAMES.index("warm")


class StyleOnly:
    """Raw features without a model; counts what it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def check(self, feature_map: FeatureMap) -> None:
        if feature_map.sources != ("style",):
            raise PenchantError("made for another model")

    def of(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        self.asked += len(pairs)
        return np.stack([style_features(prompt, answer) for prompt, answer in pairs])


def style_map(scale: float = 1.0) -> FeatureMap:
    return FeatureMap(("style",), "", "", np.zeros(K, np.float32), scale * np.eye(K, dtype=np.float32))


def bank_on(*styles: int, space: FeatureMap, shared: np.ndarray | None = None) -> Bank:
    """One direction per style."""
    count = len(styles)
    nothing = np.zeros(K) if shared is None else shared
    return Bank("reward", space.digest, nothing, 4.0 * np.eye(K)[list(styles)], np.ones(count), np.zeros((0, count)))


@pytest.fixture
def release() -> TasteRelease:
    space = style_map()
    return TasteRelease(bank_on(QUESTIONS, WARM, space=space), space)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device.open(tmp_path / "home", create=True, key_method="file", embedder=HashingEmbedder()) as opened:
        yield opened


@pytest.fixture
def taste(device: Device, release: TasteRelease) -> Taste:
    made = Taste(device, features=StyleOnly())
    made.install(release)
    return made


def add_choices(device: Device, count: int) -> None:
    """Somebody who prefers to be asked, whatever the length."""
    for number in range(count):
        more = " and so on" * (number % 3)
        asked, told = f"Shall we take way {number}?{more}", f"We take way number {number}.{' or not' * (number % 2)}"
        device.feedback.add_preference(f"Which way on day {number}?", asked, told)


def test_a_release_survives_its_file_and_belongs_together(release: TasteRelease) -> None:
    read = TasteRelease.from_bytes(release.to_bytes())
    assert read.to_bytes() == release.to_bytes() and read.bank.digest == release.bank.digest
    with pytest.raises(PenchantError, match="another feature map"):
        TasteRelease(release.bank, style_map(2.0))
    for wrong in (b"", b"nothing", release.bank.to_bytes()):
        with pytest.raises(PenchantError, match="not a taste release"):
            TasteRelease.from_bytes(wrong)


def test_settings_are_kept_and_checked(taste: Taste, device: Device) -> None:
    assert (taste.settings.on, taste.settings.strength) == (True, 1.0)
    taste.change(on=False)
    taste.change(strength=2.5)
    assert (Taste(device).settings.on, Taste(device).settings.strength) == (False, 2.5)
    for wrong in (-0.1, 4.5, float("nan")):
        with pytest.raises(PenchantError, match="strength"):
            taste.change(strength=wrong)
    forget_everything(device)
    assert taste.settings.strength == 2.5 and taste.release is not None


def test_without_a_release_the_way_out_is_told(device: Device) -> None:
    with pytest.raises(PenchantError, match="penchant taste install"):
        Taste(device, features=StyleOnly()).rewards("Why?", ["So."])


def test_a_release_for_another_model_is_refused(device: Device) -> None:
    sources: tuple[str, ...] = ("hidden", "style")
    space = FeatureMap(sources, "ab" * 32, "", np.zeros(K, np.float32), np.eye(K, dtype=np.float32))  # type: ignore[arg-type]
    taste = Taste(device, features=StyleOnly())
    taste.install(TasteRelease(bank_on(QUESTIONS, space=space), space))
    with pytest.raises(PenchantError, match="another model"):
        taste.rewards("Why?", ["So."])


def test_choices_become_rewards(taste: Taste, device: Device) -> None:
    asks, tells = "Would you like tea?", "You would like tea."
    assert taste.rewards("A drink?", [asks, tells]).tolist() == [0.0, 0.0]
    add_choices(device, 20)
    rewards = taste.rewards("A drink?", [asks, tells])
    assert rewards[0] > rewards[1] + 1.0
    taste.change(strength=2.0)
    assert np.allclose(taste.rewards("A drink?", [asks, tells]), 2.0 * rewards)


def test_strength_zero_is_the_shared_taste(device: Device) -> None:
    space = style_map()
    shared = np.eye(K)[WARM]
    taste = Taste(device, features=StyleOnly())
    taste.install(TasteRelease(bank_on(QUESTIONS, space=space, shared=shared), space))
    add_choices(device, 20)
    texts = ["I love it, dear friend.", "Is it?"]
    taste.change(strength=0.0)
    wanted = [float(style_features("Is it good?", text)[WARM]) for text in texts]
    assert np.allclose(taste.rewards("Is it good?", texts), wanted)


def test_weights_are_fitted_once_and_again_when_choices_or_bank_change(taste: Taste, device: Device) -> None:
    features = StyleOnly()
    taste = Taste(device, features=features)
    add_choices(device, 6)
    assert taste.fitted() is None and taste.due
    first = taste.fit()
    asked = features.asked
    assert taste.fit() == taste.fitted() == first and features.asked == asked == 12
    device.feedback.remove(preference=device.feedback.preferences()[0].id)
    assert taste.fitted() is None
    assert taste.fit().choices == 5 and taste.fit().weights != first.weights
    space = style_map()
    taste.install(TasteRelease(bank_on(WARM, space=space), space))
    assert taste.fitted() is None and len(taste.fit().weights) == 1


def test_only_the_latest_choices_count(taste: Taste, device: Device) -> None:
    for number in range(MOST_CHOICES + 5):
        device.feedback.add_preference(f"Question {number}", "Yes?", "Yes.", said_at="2025-01-01")
    assert taste.fit().choices == MOST_CHOICES


def test_forgetting_drops_what_was_learnt(taste: Taste, device: Device) -> None:
    item = device.memory.remember("The zebra is called Ottilie.")
    add_choices(device, 20)
    before = taste.fit().weights
    forget(device, [item.id])
    assert device.vault.blob_names(f"{LEARNT_PREFIX}taste/") == [] and taste.fitted() is None
    assert taste.fit().weights == before  # the choices say nothing of zebras: they stay, and teach the same
    forget_everything(device)
    assert device.vault.blob_names(f"{LEARNT_PREFIX}taste/") == []
    assert not any(taste.fit().weights)


def test_the_length_slope_is_what_the_reward_gains_with_length(device: Device) -> None:
    space = style_map()
    taste = Taste(device, features=StyleOnly())
    taste.install(TasteRelease(bank_on(STYLE_NAMES.index("length"), space=space), space))
    rng = np.random.default_rng(0)
    for number in range(30):
        long, short = int(rng.integers(9, 30)), int(rng.integers(2, 9))
        device.feedback.add_preference(f"Day {number}?", "word " * long, "word " * short)
    answers = ["word " * 12, "word " * 24]
    rewards = taste.rewards("Day?", answers)
    lengths = np.log1p([12, 24])
    assert rewards[1] > rewards[0]
    assert rewards[1] - rewards[0] == pytest.approx(taste.length_slope() * (lengths[1] - lengths[0]), rel=0.02)


def test_the_direction_is_explained_by_styles_it_goes_with(taste: Taste, device: Device) -> None:
    add_choices(device, 8)
    assert taste.explain() == ()  # too few choices to say
    add_choices(device, 40)
    told = taste.explain()
    assert told[0].style == "questions" and told[0].correlation > 0.9


def test_chance_is_not_explained() -> None:
    rng = np.random.default_rng(1)
    told = [explained(rng.standard_normal(50), rng.standard_normal((50, K))) for _ in range(200)]
    assert sum(map(bool, told)) < 0.12 * len(told)
    assert explained(np.zeros(50), rng.standard_normal((50, K))) == ()


class RatioEngine:
    """Likes question marks where the prompt speaks of questions."""

    class model:  # noqa: N801 - stands for an attribute
        sha256 = "cd" * 32

    def __init__(self) -> None:
        self.scored = 0

    def chat_prompt(self, messages: Sequence[object]) -> str:
        return str(messages[-1])

    def tokenise(self, text: str, *, special: bool = True) -> list[int]:
        return list(text.encode())

    def detokenise(self, tokens: Sequence[int], *, special: bool = False) -> str:
        return bytes(tokens).decode()

    def score(self, prefix: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[np.ndarray]:
        self.scored += len(continuations)
        likes = "question in return" in bytes(prefix).decode()
        return [np.array([float(likes and token == ord("?")) for token in tokens]) for tokens in continuations]


def test_attribute_weights_follow_the_choices_and_each_is_read_once(device: Device) -> None:
    engine = RatioEngine()
    taste = Taste(device, engine)  # type: ignore[arg-type]
    assert not taste.attribute_weights().any() and not taste.due
    add_choices(device, 10)
    assert taste.due
    weights = taste.attribute_weights()
    assert ATTRIBUTES[int(np.argmax(weights))].name == "questions" and weights.max() > 0.5
    scored = engine.scored
    assert scored == 10 * 2 * (1 + len(ATTRIBUTES)) and not taste.due
    taste.attribute_weights()
    assert engine.scored == scored
    add_choices(device, 11)
    taste.attribute_weights()
    assert engine.scored == scored * 11 // 10
    taste.change(on=False)
    add_choices(device, 12)
    assert not taste.due


def test_steering_needs_a_model(device: Device) -> None:
    add_choices(device, 1)
    with pytest.raises(PenchantError, match="open model"):
        Taste(device).attribute_weights()
