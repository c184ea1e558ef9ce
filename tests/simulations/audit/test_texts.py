"""The parts of an audit that need a language model, on a tiny random one and on texts of random tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from client.examples import Example, prepare_input
from client.training import TrainingPlan
from client.training_work import TextSettings
from client.work import LocalUpdate
from edge_runtime.device import Device
from protocol.round_plan import plan_task
from simulations.attacks import memorisation
from simulations.attacks.texts import text_views
from simulations.audit import adapter as audit_adapter
from simulations.audit import texts as audit_texts
from simulations.audit.parts import Effort
from tests.client.framed_help import BASE_SHA256, KINDS, RANK, TOP_LAYERS, tiny_frame, tiny_gguf, tiny_model
from tests.edge_runtime.model_helpers import open_tiny
from tests.fleet_help import make_fleet, number_of

pytest.importorskip("opacus", reason="private training needs opacus: pip install 'penchant[train]'")
PEOPLE, TEXTS = 10, 6
EFFORT = Effort(0, 0, 0, 200, 1, PEOPLE * TEXTS, 2, 2)


def texts_of(person: int) -> list[Example]:
    """Everybody favours twenty tokens of their own."""
    random = np.random.default_rng(person)
    own = random.integers(3, 270, size=20)
    return [Example(tuple(random.choice(own, size=24).tolist()), 6) for _ in range(TEXTS)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    homes = make_fleet(tmp_path / "devices", PEOPLE)
    plan = TrainingPlan(top_layers=TOP_LAYERS, messages=TEXTS, choices=0, max_tokens=300)
    task = plan_task(
        run_id="texts",
        round=0,
        kind="shared",
        artefacts={},
        base_sha256=BASE_SHA256,
        dimension=tiny_frame().dimension,
        clip_norm=0.6,
        noise_multiplier=3.0,
        cohort_size=PEOPLE,
        minimum_survivors=PEOPLE,
        delta=1e-3,
        settings=plan.settings(),
    )

    def examples(engine: Any, device: Device, *sizes: Any, **settings: Any) -> list[Example]:
        return texts_of(number_of(device))

    with open_tiny(tmp_path, seed=7, context_tokens=512) as engine:
        trainer = SimpleNamespace(torch_model=tiny_model(), engine=engine, model=SimpleNamespace(path=tiny_gguf()))
        for module in (audit_texts, audit_adapter):
            monkeypatch.setattr(module, "open_trainer", lambda layers: trainer)
        monkeypatch.setattr(audit_texts, "artefacts_of", lambda run, task: {"frame": tiny_frame().to_bytes()})
        monkeypatch.setattr(audit_texts, "device_examples", examples)
        monkeypatch.setattr(audit_adapter, "message_examples", examples)
        yield SimpleNamespace(homes=homes, tasks=(task,), fleet=PEOPLE - 2)


@pytest.fixture
def updates() -> list[LocalUpdate]:
    """A step down the mean gradient of one's own texts."""
    views = [
        text_views(tiny_model(), tiny_frame(), prepare_input(texts_of(person)), max_tokens=300, seed=0).coordinate
        for person in range(PEOPLE)
    ]
    return [LocalUpdate(-50.0 * one.mean(0), 3.0, 1) for one in views]


def test_texts_are_found_in_bare_updates_and_not_behind_mask_and_noise(run: Any, updates: list[LocalUpdate]) -> None:
    found = audit_texts.text_findings(run, updates, EFFORT, np.random.default_rng(0), lambda fraction: None)
    table = {(one.attack, one.against): one for one in found}
    assert not [one for one in found if one.verdict == "above"]
    size = f"{tiny_frame().dimension}"
    assert table["which text is it?", f"bare frame coordinate ({size})"].estimate.value == 1.0
    assert table["was this text in it?", "a person's bare update"].verdict == "succeeds"
    masked = [one for one in found if one.against.startswith("one masked upload")]
    assert len(masked) == 2 and all(one.ceiling == 1 / (PEOPLE * TEXTS) for one in masked)
    noised = table["which text is it?", f"noised sum, frame coordinate ({size})"]
    assert noised.ceiling is not None and noised.estimate.value < 0.2 and noised.ceiling < 0.2
    assert {one.attack for one in found} == {"which text is it?", "which words occur?", "was this text in it?"}


def test_poisoners_are_held_to_their_share(run: Any, updates: list[LocalUpdate]) -> None:
    found = audit_texts.poison_part(run, updates, lambda fraction: None)
    clipped = [one for one in found if one.against == "the clipped mean"]
    assert len(found) == 13 and len(clipped) == 6
    assert all(one.verdict == "below" and "nats per token" in one.note for one in clipped)
    assert all(one.verdict == "succeeds" for one in found if one not in clipped)


def test_a_personal_adapter_gives_its_texts_away_unless_it_is_private(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (audit_adapter, memorisation):
        monkeypatch.setattr(module, "noise_multiplier_for", lambda *arguments: 1.5)  # seconds of Opacus's accountant
    monkeypatch.setattr(audit_adapter, "TOP_LAYERS", TOP_LAYERS)
    monkeypatch.setattr(audit_adapter, "LORA_KINDS", KINDS)
    monkeypatch.setattr(audit_adapter, "LORA_RANK", RANK)
    monkeypatch.setattr(audit_adapter, "MAX_TOKENS", 400)
    monkeypatch.setattr(audit_adapter, "THOROUGH", TextSettings(12, batch_size=4, learning_rate=0.03))
    found = audit_adapter.adapter_findings(run, EFFORT, np.random.default_rng(0), lambda fraction: None)
    bare, private = ({one.attack: one for one in found if one.against == against} for against in audit_adapter.ADAPTERS)
    assert bare.keys() == private.keys() and len(bare) == 4
    assert bare["extraction of a secret"].verdict == bare["membership of a text, reference"].verdict == "succeeds"
    assert all(one.verdict == "below" for one in private.values())
    for attack in ("extraction of a secret", "membership of a text, reference"):
        assert private[attack].estimate.value < bare[attack].estimate.value
