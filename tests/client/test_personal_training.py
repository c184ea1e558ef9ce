"""`penchant train`: the newest texts are kept out, and only a sure gain is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import client.device_profile as device_profile
import client.personal_gate as gate
import client.personal_plan as plan
import client.personal_training as personal
from client.examples import Example
from client.lora_layout import LoraLayout
from client.objectives.objective import Objective
from client.personal_plan import OwnTexts, Privacy
from client.training import Trainer, open_trainer
from client.training_ledger import TrainingLedger
from client.training_run import TrainingPaused, kept_state
from edge_runtime.adapters.adapter_file import read_adapter, read_adapter_metadata
from edge_runtime.adapters.log import AdapterLog
from edge_runtime.adapters.versions import compare
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.forgetting import forget
from edge_runtime.memory.statements import Statement
from edge_runtime.models.resources import MIB, DeviceProfile
from edge_runtime.store.vault import LEARNT_PREFIX
from protocol.errors import PenchantError
from protocol.frames import Frame
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.tiny_model import write_tiny_model

Outcome = personal.TrainingOutcome | personal.RetrievalOnly | personal.NothingNew
# What client/device_profile.py chooses for few texts: all 4 layers of the tiny model.
FACTS = DeviceProfile(cores=2, memory_bytes=4096 * MIB, on_mains=True, load=0.0)
LAYERS, RANK, KINDS = 4, device_profile.PRIVATE_RANK, device_profile.KINDS


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """A device on the tiny model with 12 messages and 4 choices, remembered in another order than written."""
    monkeypatch.setenv("PENCHANT_MODEL", str(write_tiny_model(tmp_path / "tiny.gguf", seed=0)))
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(personal, "public_text", lambda: [("Say it.", "here it is"), ("What is it?", "a thing")])
    monkeypatch.setattr(plan, "probe", lambda: FACTS)
    open_trainer.cache_clear()
    with Device.open(tmp_path / "home", create=True, key_method="file", embedder=HashingEmbedder()) as opened:
        order = np.random.default_rng(0).permutation(12)
        opened.memory.remember_many(Statement(text_of(n), "Say it.", f"2025-01-{n + 1:02d}") for n in order)
        for n in (2, 0, 3, 1):
            opened.feedback.add_preference(f"Which {n}?", choice_of(n), "no", said_at=f"2025-02-{n + 1:02d}")
        yield opened
    open_trainer.cache_clear()


def text_of(number: int) -> str:
    return f"the {chr(97 + number) * 3} and the thing"


def choice_of(number: int) -> str:
    return f"you and {chr(112 + number) * 3}"


def test_fewer_texts_than_needed_leave_it_to_the_memory(device: Device) -> None:
    device.memory.forget_all()
    assert train(device) == personal.RetrievalOnly(4, 12)
    assert TrainingLedger(device.vault).entries() == []


def train_with(
    device: Device,
    monkeypatch: pytest.MonkeyPatch,
    effect: Callable[[int], float],
    privacy: Privacy | None = None,
    *,
    fresh: bool = True,
) -> tuple[personal.TrainingOutcome, list[Objective]]:
    """Train on the tiny model; the loss of held-out text i (messages, then choices) under the new adapter is its loss
    without, minus ``effect(i)``, where memory is in the prompt, and nothing less where it is not. With what was trained
    on."""
    trained: list[Objective] = []
    original, made, held_out = gate.token_losses, plan.objective_of, personal.held_out_texts
    served: dict[Example, int] = {}

    def held(*arguments: Any) -> list[gate.HeldOutText]:
        texts = held_out(*arguments)
        served.update({text.served: number for number, text in enumerate(texts)})
        return texts

    def losses(engine: Engine, examples: list[Example], adapter: bytes | None, on_text: object) -> list[np.ndarray]:
        kept = original(engine, examples, None)
        if adapter is None or adapter in known:
            return kept
        texts = zip(examples, kept, strict=True)
        return [loss - (effect(served[text]) if text in served else 0.0) for text, loss in texts]

    def noted(engine: Engine, texts: OwnTexts, *, private: bool, tellings: int = 1) -> Objective:
        objective = made(engine, texts, private=private, tellings=tellings)
        trained.append(objective)
        return objective

    known = [data for version in [AdapterLog(device.vault).live()] if version for data in [version[1]]]
    monkeypatch.setattr(gate, "token_losses", losses)
    monkeypatch.setattr(plan, "objective_of", noted)
    monkeypatch.setattr(personal, "held_out_texts", held)
    outcome = train(device, privacy=privacy, fresh=fresh)
    monkeypatch.setattr(gate, "token_losses", original)
    monkeypatch.setattr(plan, "objective_of", made)
    monkeypatch.setattr(personal, "held_out_texts", held_out)
    assert isinstance(outcome, personal.TrainingOutcome)
    return outcome, trained


def replies(objective: Objective) -> list[str]:
    """What is trained on in one pass: in a chat what has a weight, up to the end of each turn."""
    engine = open_trainer(LAYERS).engine
    found = []
    for place in objective.passes()[-1]:
        one = objective.examples[place]
        weights = one.weights or (1.0,) * (len(one.tokens) - one.prompt_length)
        trained = [token for token, weight in zip(one.tokens[one.prompt_length :], weights, strict=True) if weight]
        while trained:
            end = trained.index(engine.end_of_turn[0])
            found.append(engine.detokenise(trained[:end]).strip())
            trained = trained[end + 1 :]
    return found


def test_a_sure_gain_is_installed_and_claims_no_privacy_without_noise(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome, trained = train_with(device, monkeypatch, lambda number: 0.1 + 0.01 * number)
    drafts = outcome.served["drafts"]
    assert (outcome.texts, drafts.texts, outcome.served["answers"].texts, outcome.plain.texts) == (12, 3, 1, 4)
    assert [outcome.objective] == [objective.name for objective in trained] == ["turns"]
    held_out = {text_of(n) for n in (9, 10, 11)} | {choice_of(3)}
    for objective in trained:
        assert len(replies(objective)) == 12 and not set(replies(objective)) & held_out
    assert 5 < drafts.before < 12  # log(280) is 5.6: the tiny model knows nothing
    assert 0.1 < drafts.gain < 0.13 and 0 < drafts.gain_low < drafts.gain
    assert outcome.plain.gain < 0.05  # but for the choice, which finds no notes and so has one prompt
    live = AdapterLog(device.vault).live()
    assert live is not None and outcome.installed == live[0] and live[0].note == "own texts, without privacy"
    assert live[0].serves == ("drafts",)  # one preferred answer is too little to judge answers by
    assert live[0].epsilon is None and read_adapter_metadata(live[1]).epsilon is None
    rank, factors = device_profile.LORA_RANK, read_adapter(live[1]).factors
    assert len(factors) == LAYERS * len(device_profile.ALL_KINDS)
    assert outcome.numbers == sum(rank * (a.shape[1] + b.shape[0]) for a, b in factors.values())


def test_a_gain_of_one_text_is_not_installed(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, _ = train_with(device, monkeypatch, lambda number: 1.0 if number == 0 else 0.0)
    assert outcome.served["drafts"].gain > 0 > outcome.served["drafts"].gain_low
    assert outcome.installed is None and AdapterLog(device.vault).versions() == []


def test_with_noise_the_adapter_states_its_epsilon(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, trained = train_with(device, monkeypatch, lambda number: 0.2, Privacy(4.0))
    assert outcome.installed is not None and outcome.installed.epsilon == outcome.epsilon
    assert 3.9 < outcome.epsilon <= 4.0 and outcome.units == 12 and outcome.stop_texts == 0
    assert [objective.name for objective in trained] == ["next_token"]  # no text in another's prompt
    (entry,) = TrainingLedger(device.vault).entries()
    assert entry.steps == entry.planned == outcome.steps == 12
    assert outcome.epsilon_so_far == pytest.approx(outcome.epsilon) and outcome.numbers == LAYERS * 2 * RANK**2
    again, _ = train_with(device, monkeypatch, lambda number: -0.2, Privacy(4.0))
    assert again.installed is None and again.epsilon == outcome.epsilon < again.epsilon_so_far  # refused, yet counted


def test_conversations_can_be_the_unit(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, _ = train_with(device, monkeypatch, lambda number: 0.2, Privacy(4.0, "conversation"))
    assert outcome.installed is not None and "per conversation" in outcome.installed.note
    assert outcome.units == 12  # every text of this device was said on a day of its own


def test_what_a_version_was_judged_by_is_kept_for_comparison(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = train_with(device, monkeypatch, lambda number: 0.1)
    assert first.installed is not None and kept_state(device.vault) is None
    against_none = compare(device.vault, None, first.installed.id)
    assert against_none.texts == 4 and against_none.gain == pytest.approx(0.1)
    assert read_adapter_metadata(AdapterLog(device.vault).live()[1]).parent_sha256 == ""  # type: ignore[index]
    refused, _ = train_with(device, monkeypatch, lambda number: 0.0)
    assert refused.installed is None


def test_a_training_goes_on_from_the_live_adapter_with_what_is_new(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = train_with(device, monkeypatch, lambda number: 0.1)
    assert train(device) == personal.NothingNew(0)
    device.memory.remember_many(Statement(f"{text_of(n)} again", "Say it.", f"2025-04-{n + 1:02d}") for n in range(4))
    assert train(device) == personal.NothingNew(3)  # the newest quarter of 16 is kept out
    device.memory.remember_many(Statement(f"{text_of(n)} anew", "Say it.", f"2025-05-{n + 1:02d}") for n in range(4))
    second, learnt = train_with(device, monkeypatch, lambda number: 0.1, fresh=False)
    assert (second.increment, second.new_texts, second.texts) == (2, 6, 6) and plan.LIFELONG.strength > 0
    again = [f"{text_of(n)} again" for n in range(3)]
    assert sorted(replies(learnt[0])) == sorted([*(text_of(n) for n in (9, 10, 11)), *again])
    assert first.installed is not None and second.installed is not None
    assert second.installed.parent_id == first.installed.id and "increment 2" in second.installed.note
    AdapterLog(device.vault).use(first.installed.id)  # rolled back: what came after it is new again
    third, _ = train_with(device, monkeypatch, lambda number: -0.1, fresh=False)
    assert (third.increment, third.new_texts) == (2, 6)


def test_from_nothing_stays_from_nothing_when_interrupted(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    train_with(device, monkeypatch, lambda number: 0.1)
    with pytest.raises(TrainingPaused):
        train(device, fresh=True, wants_pause=lambda: "Dinner" if kept_state(device.vault) else None)
    lines = list[str]()
    assert trained(train(device, lines=lines)).increment == 1 and "Going on" in lines[0]
    assert train(device) == personal.NothingNew(0)


def test_a_forget_retires_every_adapter_and_all_that_was_learnt(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was trained on: a text may also have stood in the prompts of others."""
    first, _ = train_with(device, monkeypatch, lambda number: 0.1)
    with pytest.raises(TrainingPaused):
        train(device, fresh=True, wants_pause=lambda: "Dinner" if kept_state(device.vault) else None)
    assert first.installed is not None and kept_state(device.vault) is not None
    forget(device, [1])
    assert device.vault.blob_names(LEARNT_PREFIX) == [] and AdapterLog(device.vault).live() is None
    assert [version.held for version in AdapterLog(device.vault).versions()] == [False]
    with pytest.raises(PenchantError, match="forgotten"):
        AdapterLog(device.vault).use(first.installed.id)
    with pytest.raises(PenchantError, match="never judged"):
        compare(device.vault, None, first.installed.id)


def test_an_adapter_of_another_model_is_no_rival(
    device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, _ = train_with(device, monkeypatch, lambda number: 0.1)
    assert first.installed is not None
    monkeypatch.setenv("PENCHANT_MODEL", str(write_tiny_model(tmp_path / "other.gguf", seed=1)))
    open_trainer.cache_clear()
    other, _ = train_with(device, monkeypatch, lambda number: 0.1)
    assert other.installed is not None and other.installed.base_sha256 != first.installed.base_sha256
    assert read_adapter_metadata(AdapterLog(device.vault).live()[1]).parent_sha256 == ""  # type: ignore[index]


@pytest.mark.parametrize(("nested", "privacy"), [(True, Privacy(4.0)), (False, Privacy(4.0)), (False, None)])
def test_it_stands_on_what_the_fleet_shares(
    device: Device, monkeypatch: pytest.MonkeyPatch, nested: bool, privacy: Privacy | None
) -> None:
    """As the start where the own frame holds it, else beside what is trained; the file holds both."""
    frame = personal.own_frame(open_trainer(LAYERS), lambda fraction: None, kinds=KINDS, rank=RANK)
    if not nested:
        random = np.random.default_rng(0)
        left, right = (
            [np.linalg.qr(random.normal(size=side))[0].astype(np.float32) for side in sides]
            for sides in ([(64, 2)] * 2, [(128, 2), (64, 2)])
        )
        names = ("blk.3.ffn_down", "blk.3.attn_output")
        frame = Frame(frame.base_sha256, 2, 1.0, names, tuple(left), tuple(one.T for one in right))
    shared, starts = np.full(frame.dimension, 0.02), list[np.ndarray]()
    monkeypatch.setattr(personal, "fleet_tier", lambda vault, base_sha256: (frame, shared))
    opened = personal.open_run
    monkeypatch.setattr(
        personal,
        "open_run",
        lambda vault, run, start, **more: starts.append(start) or opened(vault, run, start, **more),
    )
    outcome, _ = train_with(device, monkeypatch, lambda number: 0.1, privacy)
    assert outcome.installed is not None
    layout = LoraLayout.of(
        open_trainer(LAYERS).torch_model.module_shapes(device_profile.ALL_KINDS), device_profile.LORA_RANK
    )
    alone = np.zeros(len(starts[0])) if privacy else layout.start(0)
    assert np.allclose(starts[0], shared if nested else alone, atol=1e-4)
    live = AdapterLog(device.vault).live()
    assert live is not None
    ranks = {name: left.shape[0] for name, (left, _) in read_adapter(live[1]).factors.items()}
    own = RANK if privacy else device_profile.LORA_RANK
    assert ranks["blk.3.ffn_down"] == (own if nested else own + 2) and ranks[f"blk.{4 - LAYERS}.{KINDS[0]}"] == own


def test_a_pause_outside_the_steps_and_a_resumed_gate(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paused while judging: the steps are not done again, and the next call judges."""
    with pytest.raises(TrainingPaused, match="goes on where it stopped"):
        train(device, wants_pause=lambda: "Dinner")
    assert kept_state(device.vault) is None

    reached = list[str]()
    with pytest.raises(TrainingPaused):
        train(device, stages=reached, wants_pause=lambda: "Dinner" if "judging on held-out texts" in reached else None)
    state, lines = kept_state(device.vault), list[str]()
    assert state is not None and state.step > 2
    outcome = trained(train(device, lines=lines))
    assert f"after step {state.step} of at most {state.step}" in lines[0] and kept_state(device.vault) is None
    assert outcome.seconds == state.seconds and [e.steps for e in TrainingLedger(device.vault).entries()] == [
        state.step
    ]


def test_a_pause_among_the_steps_keeps_every_step(device: Device) -> None:
    asked, reached = list[int](), list[str]()

    def after_three_steps() -> str | None:
        asked.append(1) if reached and reached[-1] == "training" else None
        return "Dinner" if len(asked) > 3 else None

    with pytest.raises(TrainingPaused) as paused:
        train(device, stages=reached, wants_pause=after_three_steps)
    state = kept_state(device.vault)
    assert state is not None and state.step == paused.value.step == 3 < paused.value.steps


def test_what_was_forgotten_while_it_trained_is_in_no_adapter(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetting(engine: Engine, examples: list[Example], adapter: bytes | None, on_text: object) -> list[np.ndarray]:
        if adapter is None and kept_state(device.vault):
            forget(device, [1])
        return [np.linspace(3.0, 4.0, 9) - bool(adapter) for _ in examples]

    monkeypatch.setattr(gate, "token_losses", forgetting)
    with pytest.raises(PenchantError, match="forgotten while"):
        train(device)
    assert AdapterLog(device.vault).versions() == [] and device.vault.blob_names(LEARNT_PREFIX) == []


def test_memory_that_does_not_suffice_is_one_line(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(top_layers: int) -> Trainer:
        raise MemoryError

    monkeypatch.setattr(personal, "open_trainer", starved)
    with pytest.raises(PenchantError, match="raise --memory"):
        train(device)


def train(
    device: Device,
    *,
    privacy: Privacy | None = None,
    stages: list[str] | None = None,
    lines: list[str] | None = None,
    wants_pause: Callable[[], str | None] = lambda: None,
    fresh: bool = False,
) -> Outcome:
    return personal.train_device(
        device,
        privacy=privacy,
        created="2025-03-01",
        on_progress=lambda stage, fraction: (stages if stages is not None else []).append(stage),
        on_notice=(lines if lines is not None else []).append,
        wants_pause=wants_pause,
        fresh=fresh,
    )


def trained(outcome: Outcome) -> personal.TrainingOutcome:
    assert isinstance(outcome, personal.TrainingOutcome)
    return outcome
