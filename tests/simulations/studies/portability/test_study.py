"""The study on tiny models: every arm is what it says, and differences point the right way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simulations.studies.portability.study as study
from client.training_ledger import TrainingLedger
from client.training_work import TextSettings
from edge_runtime.device import Device
from edge_runtime.models.catalogue import describe_model
from simulations.people import Message, Person
from simulations.studies.portability.study import ARMS, Bases, study_person, summary
from tests.edge_runtime.adapters.test_lineage import with_weights
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.tiny_model import write_tiny_model


def messages(month: int, count: int) -> tuple[Message, ...]:
    return tuple(
        Message(f"2025-{month:02d}-{day + 1:02d}", "Say it.", f"the {chr(97 + day) * 3} and the thing")
        for day in range(count)
    )


PERSON = Person("ann", "Ann", "", "fleet", messages(1, 12), messages(2, 3), (), (), ())


@pytest.fixture
def bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Bases, Bases]]:
    monkeypatch.setattr(study, "TRAINING", TextSettings(8, 4, 0.05))
    old = describe_model(write_tiny_model(tmp_path / "old.gguf", 7))
    new = with_weights(old, tmp_path / "new.gguf", "blk.3.ffn_down.weight", 1.02)
    pair = Bases(old, lambda line: None), Bases(new, lambda line: None)
    yield pair
    for base in pair:
        base.engine.close()


def test_a_person_is_judged_in_every_arm(bases: tuple[Bases, Bases], tmp_path: Path) -> None:
    old, new = bases
    with Device.open(tmp_path / "home", create=True, key_method="file", embedder=HashingEmbedder()) as device:
        ledger = TrainingLedger(device.vault)
        row = study_person(PERSON, old, new, ledger)
        assert len(ledger.entries()) == 1 + (len(row["judgements"]) - 1)
    losses = row["losses"]
    assert set(losses) == {*ARMS, "gated"} and all(np.isfinite(list(losses.values())))
    # The tiny model's texts are all alike: what is learnt from nine shows on the others.
    assert losses["old_adapter"] < losses["old_base"] - 0.1
    assert losses["moved"] < losses["new_base"] - 0.1 and losses["retrained"] < losses["new_base"] - 0.1
    assert row["outcome"] == "moved" and losses["gated"] == losses["moved"]
    assert losses["warm"] != losses["moved"] and losses["warm"] != losses["retrained"]
    assert row["judgements"][0]["texts"] == 3 and row["seconds"]["retraining"] > 0


def row(moved: float, retrained: float, outcome: str) -> dict[str, Any]:
    losses = dict.fromkeys((*ARMS, "gated"), 3.0) | {"moved": moved, "retrained": retrained, "gated": moved}
    return {
        "losses": losses,
        "outcome": outcome,
        "seconds": {"judging": 1.0},
        "relative_change": 0.1,
        "change_in_adapters": 2.0,
    }


def test_differences_are_paired_and_signed() -> None:
    told = summary([row(2.8, 2.7, "moved"), row(2.9, 2.8, "dropped"), row(2.7, 2.6, "moved")])
    assert told["outcomes"] == {"moved": 2, "retrained": 0, "dropped": 1} and told["people"] == 3
    assert told["differences"]["retrained against moved"] == pytest.approx((0.1, 0.1, 0.1))
    mean, low, high = told["differences"]["moved adapter's gain"]
    assert mean == pytest.approx(0.2) and low < 0.2 < high
