"""Moving an adapter: what the gate lets through, what is retrained, and what the new file says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

import client.portability as portability
from client.examples import Example
from client.personal_gate import TokenLosses
from client.portability import Judgement, judge, losses_of, move_adapter, move_on_device
from client.privacy_units import Units
from client.training_ledger import TrainingLedger
from client.warm_start import rebased
from edge_runtime.adapters.adapter_file import AdapterMetadata, read_adapter, write_adapter
from edge_runtime.adapters.log import AdapterLog
from edge_runtime.device import Device
from edge_runtime.forgetting import forget_everything
from edge_runtime.memory.memory import Memory
from edge_runtime.memory.statements import Statement
from edge_runtime.models.catalogue import ModelFile, describe_model
from protocol.errors import PenchantError
from tests.client.framed_help import some_texts
from tests.edge_runtime.adapters.test_lineage import with_weights
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import random_factors
from tests.tiny_model import write_tiny_model

CREATED = "2025-03-01"
EIGHT = np.linspace(3.0, 5.0, 8)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFile, ModelFile]:
    """A tiny model and one that evolved from it: the top layer's feed-forward is 2 % stronger."""
    folder = tmp_path_factory.mktemp("models")
    old = describe_model(write_tiny_model(folder / "old.gguf", 7))
    return old, with_weights(old, folder / "new.gguf", "blk.3.ffn_down.weight", 1.02, parent=old.sha256)


def adapter_for(model: ModelFile, *, epsilon: float | None = None, frame: str = "f" * 64, size: float = 0.05) -> bytes:
    return write_adapter(
        random_factors(0, size=size),
        alpha=4.0,
        metadata=AdapterMetadata(model.sha256, frame, "a" * 64, 3, epsilon, "2025-01-01"),
        architecture="llama",
        heads=4,
        kv_heads=2,
    )


def examples() -> list[Example]:
    return [Example(tuple(tokens), prompt) for tokens, prompt in some_texts()]


def as_texts(means: np.ndarray) -> TokenLosses:
    """Texts of which only the mean is known."""
    return [np.array([mean]) for mean in means]


def fake_losses(
    models: tuple[ModelFile, ModelFile], alone: float, before: float, *candidates: float
) -> portability.Losses:
    """Losses of eight texts: of the new base, of the adapter on the old base, then of each candidate in turn."""
    given = {}
    queue = list(candidates)

    def losses(model: ModelFile, adapter: bytes | None) -> TokenLosses:
        if adapter is None:
            assert model == models[1]
            return as_texts(EIGHT + alone)
        if model == models[0]:
            return as_texts(EIGHT + before)
        if adapter not in given:
            given[adapter] = queue.pop(0)
        return as_texts(EIGHT + given[adapter])

    return losses


def move(models: tuple[ModelFile, ModelFile], losses: portability.Losses, **options: object) -> portability.Move:
    arguments = {"retrain": lambda data: other_adapter(models[1]), "created": CREATED} | options
    return move_adapter(adapter_for(models[0]), *models, losses=losses, **arguments)  # type: ignore[arg-type]


def other_adapter(model: ModelFile) -> bytes:
    return adapter_for(model, size=0.07)


# ---- the decision


def test_an_adapter_that_helps_and_loses_nothing_moves_untouched(models: tuple[ModelFile, ModelFile]) -> None:
    result = move(models, fake_losses(models, 0.0, -0.2, -0.19), retrain=None)
    assert result.outcome == "moved" and result.data == rebased(adapter_for(models[0]), models[1], created=CREATED)
    (judged,) = result.judgements
    assert judged.gain == pytest.approx(0.19) and judged.kept == pytest.approx(-0.01) and judged.texts == 8
    assert (judged.new_base, judged.old_adapter, judged.candidate) == pytest.approx((4.0, 3.8, 3.81))
    assert result.lineage.stated is True and 0 < result.lineage.relative < 0.02 and result.retraining_seconds == 0.0


def test_an_adapter_that_does_not_help_is_retrained(models: tuple[ModelFile, ModelFile]) -> None:
    result = move(models, fake_losses(models, 0.0, -0.2, 0.1, -0.2))
    assert result.outcome == "retrained" and result.data == other_adapter(models[1])
    assert [judged.passed for judged in result.judgements] == [False, True]
    assert "does not surely help" in result.judgements[0].reason


def test_an_adapter_that_lost_more_than_the_tolerance_is_retrained_and_dropped(
    models: tuple[ModelFile, ModelFile],
) -> None:
    result = move(models, fake_losses(models, 0.0, -0.2, -0.1, -0.15))
    assert result.outcome == "dropped" and result.data is None and len(result.judgements) == 2
    assert "worse than before by more than 0.02" in result.judgements[1].reason
    assert move(models, fake_losses(models, 0.0, -0.2, -0.1), tolerance=0.11).outcome == "moved"
    assert move(models, fake_losses(models, 0.0, -0.2, -0.1), retrain=None).outcome == "dropped"


def test_nothing_is_judged_where_the_lineage_is_broken(models: tuple[ModelFile, ModelFile], tmp_path: Path) -> None:
    apart = describe_model(write_tiny_model(tmp_path / "apart.gguf", 8))

    def losses(model: ModelFile, adapter: bytes | None) -> TokenLosses:
        raise AssertionError

    with pytest.raises(PenchantError, match="does not descend"):
        move_adapter(adapter_for(models[0]), models[0], apart, losses=losses, retrain=None, created=CREATED)
    with pytest.raises(PenchantError, match="tolerance"):
        move(models, losses, tolerance=math.nan)


def judged(new: np.ndarray, old: np.ndarray, candidate: np.ndarray, tolerance: float = 0.02) -> Judgement:
    return judge(as_texts(new), as_texts(old), as_texts(candidate), tolerance)


def test_both_conditions_need_their_interval() -> None:
    noise = np.array([0.3, -0.3] * 4)
    assert judged(EIGHT, EIGHT, EIGHT - 0.05).passed
    assert not judged(EIGHT + noise, EIGHT, EIGHT - 0.05).passed  # a gain that is not sure
    lost = judged(EIGHT + 1.0, EIGHT + noise, EIGHT)  # nothing lost on the mean, and not surely
    assert lost.kept == pytest.approx(0.0) and lost.kept_low < -0.02 and not lost.passed
    assert judged(EIGHT + 1.0, EIGHT + noise, EIGHT, 0.3).passed
    assert not judged(EIGHT[:1], EIGHT[:1], EIGHT[:1] - 3).passed  # one text bounds nothing


def test_of_a_large_sure_gain_a_tenth_may_be_lost() -> None:
    assert judged(EIGHT + 0.7, EIGHT, EIGHT + 0.05).passed and not judged(EIGHT + 0.7, EIGHT, EIGHT + 0.08).passed
    assert judged(EIGHT + 0.7, EIGHT, EIGHT + 0.05).margin == pytest.approx(0.065)
    unsure = judged(EIGHT + np.array([1.7, -0.1] * 4), EIGHT, EIGHT + 0.05)  # the sure part of the gain counts
    assert unsure.gain == pytest.approx(0.75) and unsure.margin < 0.05 and not unsure.passed


def test_what_was_learnt_tells_what_was_lost_and_not_what_it_helps() -> None:
    noise = np.array([0.04, -0.04] * 4)
    held_out = as_texts(EIGHT), as_texts(EIGHT - 0.2 + noise), as_texts(EIGHT - 0.2)
    alone = judge(*held_out, 0.02)
    learnt = as_texts(np.tile(EIGHT + noise, 4)), as_texts(np.tile(EIGHT, 4))
    wider = judge(*held_out, 0.02, learnt)
    assert not alone.passed and wider.passed and (wider.texts, wider.kept_texts) == (8, 40)
    assert (alone.gain, alone.gain_low) == (wider.gain, wider.gain_low) and wider.kept == pytest.approx(alone.kept)
    assert wider.old_adapter == pytest.approx(alone.old_adapter)  # shown is what was held out
    spoilt = judge(*held_out, 0.02, (learnt[0], as_texts(np.tile(EIGHT, 4) + 0.1)))
    assert not spoilt.passed and "worse than before" in spoilt.reason


def test_what_was_learnt_judges_no_retrained_adapter(models: tuple[ModelFile, ModelFile]) -> None:
    """It has seen these texts once more than the old one."""
    asked: list[bytes] = []

    def learnt(model: ModelFile, adapter: bytes | None) -> TokenLosses:
        assert adapter is not None
        asked.append(adapter)
        return as_texts(EIGHT)

    result = move(models, fake_losses(models, 0.0, -0.2, 0.1, -0.2), learnt=learnt)
    assert [one.kept_texts for one in result.judgements] == [16, 8]
    assert asked == [adapter_for(models[0]), rebased(adapter_for(models[0]), models[1], created=CREATED)]


# ---- the file


def test_a_moved_file_names_its_new_base_and_its_parent(models: tuple[ModelFile, ModelFile]) -> None:
    data = adapter_for(models[0], epsilon=2.5)
    before, after = read_adapter(data), read_adapter(rebased(data, models[1], created=CREATED))
    assert after.metadata == AdapterMetadata(models[1].sha256, "f" * 64, sha256(data).hexdigest(), 3, 2.5, CREATED)
    assert after.alpha == before.alpha and set(after.factors) == set(before.factors)
    for module, pair in before.factors.items():
        assert all(np.array_equal(one, other) for one, other in zip(pair, after.factors[module], strict=True))


def test_it_serves_on_the_new_base_and_no_longer_on_the_old(models: tuple[ModelFile, ModelFile]) -> None:
    old, new = models
    data = adapter_for(old, size=0.3)
    moved, losses = rebased(data, new, created=CREATED), losses_of(examples())
    alone, with_adapter = np.concatenate(losses(new, None)), np.concatenate(losses(new, moved))
    assert np.abs(alone - with_adapter).max() > 0.05  # it acts
    assert np.abs(np.concatenate(losses(old, data)) - with_adapter).mean() < 0.2  # and much as it did
    with pytest.raises(PenchantError, match="another base model"):
        losses(old, moved)


# ---- on a device


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    with Device.open(tmp_path / "home", create=True, key_method="file") as opened:
        monkeypatch.setattr(Device, "memory", Memory(opened.vault, HashingEmbedder()))
        opened.memory.remember_many(
            Statement(f"the {chr(97 + n) * 3} and the thing", "Say it.", f"2025-01-{max(n, 1):02d}") for n in range(16)
        )
        yield opened


def known_losses(monkeypatch: pytest.MonkeyPatch, gain: float) -> list[list[Example]]:
    """Any adapter spares the held-out texts `gain`; the texts are noted."""
    seen: list[list[Example]] = []

    def of(held_out: Sequence[Example]) -> portability.Losses:
        seen.append(list(held_out))
        return lambda model, adapter: as_texts(np.linspace(3, 4, len(held_out)) - (gain if adapter else 0.0))

    monkeypatch.setattr(portability, "losses_of", of)
    return seen


def test_the_live_adapter_moves_and_can_be_rolled_back(
    device: Device, models: tuple[ModelFile, ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = AdapterLog(device.vault).install(adapter_for(models[0]), note="first")
    seen = known_losses(monkeypatch, 0.2)
    result, installed = move_on_device(device, *models, created=CREATED)
    assert result.outcome == "moved" and installed is not None
    assert [len(texts) for texts in seen] == [4, 12]  # the newest quarter, and what was learnt
    assert len({example.prompt_length for example in seen[0]}) == 1 < seen[0][0].prompt_length  # behind served prompts
    live = device.adapters.live()
    assert live is not None and live == (installed, result.data) and installed.base_sha256 == models[1].sha256
    assert installed.note == f"adapter 1 moved from base {models[0].sha256[:12]} to {models[1].sha256[:12]}"
    device.adapters.use(first.id)
    assert device.adapters.live() is not None


@pytest.mark.parametrize(("epsilon", "examples"), [(None, 4), (8.0, 12)])  # chats of three; with privacy single texts
def test_a_dropped_adapter_changes_nothing(
    device: Device,
    models: tuple[ModelFile, ModelFile],
    monkeypatch: pytest.MonkeyPatch,
    epsilon: float | None,
    examples: int,
) -> None:
    AdapterLog(device.vault).install(adapter_for(models[0], epsilon=epsilon), note="first")
    before = device.adapters.versions()
    known_losses(monkeypatch, -0.2)
    trained: list[int] = []

    def retrained(data: bytes, model: ModelFile, training: Sequence[Example], **options: object) -> bytes:
        assert isinstance(options["ledger"], TrainingLedger)
        units = options["units"]
        if epsilon is None:
            assert units is None
        else:
            assert isinstance(units, Units) and sum(map(len, units.members)) == len(training) > units.count == 11
        trained.append(len(training))
        return other_adapter(model)

    monkeypatch.setattr(portability, "warm_retrained", retrained)
    result, installed = move_on_device(device, *models, created=CREATED)
    assert result.outcome == "dropped" and installed is None and trained == [examples]
    assert device.adapters.versions() == before


def test_a_forget_meanwhile_leaves_nothing(
    device: Device, models: tuple[ModelFile, ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    AdapterLog(device.vault).install(adapter_for(models[0]), note="first")

    def of(held_out: Sequence[Example]) -> portability.Losses:
        forget_everything(device)
        return lambda model, adapter: as_texts(np.linspace(3, 4, len(held_out)) - (0.2 if adapter else 0.0))

    monkeypatch.setattr(portability, "losses_of", of)
    with pytest.raises(PenchantError, match="forgotten while the adapter moved"):
        move_on_device(device, *models, created=CREATED)
    assert device.adapters.live() is None and len(device.adapters.versions()) <= 1


def test_what_is_needed_is_said(device: Device, models: tuple[ModelFile, ModelFile]) -> None:
    with pytest.raises(PenchantError, match="penchant train"):
        move_on_device(device, *models, created=CREATED)
    AdapterLog(device.vault).install(adapter_for(models[0]), note="first")
    device.memory.forget_all()
    AdapterLog(device.vault).install(adapter_for(models[0]), note="first")
    with pytest.raises(PenchantError, match="there are 0 texts"):
        move_on_device(device, *models, created=CREATED)
