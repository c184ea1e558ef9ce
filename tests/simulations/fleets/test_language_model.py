"""A block trained in one batch offers what each person offers when trained alone by the device's own code."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from transformers import AttentionInterface

from client.local_training import LocalSettings, train_coordinates
from client.packed_texts import ATTENTION
from protocol.clipping import clip_to_norm
from protocol.errors import PenchantError
from simulations.fleets.fleet import FleetPlan, train_fleet
from simulations.fleets.hidden_files import HiddenFiles
from simulations.fleets.language_model import FrameLearner, LocalTraining
from tests.simulations.fleets.language_help import frame_of, texts_of, tiny

COUNTS = (1, 3, 2, 3, 2, 1)
PEOPLE = [texts_of(person, count) for person, count in enumerate(COUNTS)]


class BlocksOfTwo(FrameLearner):
    people_at_once = 2


def learner_in(folder: Path, local: LocalTraining) -> FrameLearner:
    model = tiny(folder)
    return BlocksOfTwo(model, frame_of(model), PEOPLE, HiddenFiles(model, "a" * 64, 24, folder / "hidden"), local)


def test_a_block_is_everybody_trained_alone_as_a_device_does(tmp_path: Path) -> None:
    """With all texts in one batch per pass, whose order then does not matter: several Adam steps."""
    learner = learner_in(tmp_path, LocalTraining(epochs=3, batch_size=4, learning_rate=0.05))
    model, people = tiny(tmp_path), np.arange(6)
    frame = frame_of(model)
    theta = np.random.default_rng(1).normal(scale=0.05, size=frame.dimension)
    deltas, losses = learner.deltas(people, theta)
    for person in people:
        batch = model.prepare(PEOPLE[person], max_tokens=24)
        settings = LocalSettings(epochs=3, batch_size=4, learning_rate=0.05)
        alone = train_coordinates(model, frame, batch, theta, settings)
        assert np.allclose(deltas[person].numpy(), alone.theta - theta, atol=2e-4)
        assert float(losses[person]) == pytest.approx(alone.loss, rel=1e-4)
    assert deltas.abs().min(dim=1).values.max() > 0.01  # and everybody moved


def test_what_somebody_offers_depends_on_nobody_else_in_the_block(tmp_path: Path) -> None:
    learner = learner_in(tmp_path, LocalTraining(epochs=2, batch_size=2, learning_rate=0.05))
    theta = np.zeros(learner.dimension)
    together = learner.deltas(np.array([1, 0, 4, 3]), theta)[0].numpy()
    for row, person in enumerate((1, 0, 4, 3)):
        assert np.allclose(together[row], learner.deltas(np.array([person]), theta)[0][0].numpy(), atol=2e-4)


def test_batches_are_a_persons_texts_in_order_and_ones_with_fewer_end_earlier(tmp_path: Path) -> None:
    """Three texts in batches of two are two steps; of one text, one: Adam's first step is as long as its rate."""
    learner = learner_in(tmp_path, LocalTraining(epochs=1, batch_size=2, learning_rate=0.05))
    deltas = learner.deltas(np.array([0, 1]), np.zeros(learner.dimension))[0]
    assert np.allclose(deltas[0].abs().numpy(), 0.05, atol=1e-3)
    assert float(deltas[1].abs().max()) > 0.06


def test_a_fleets_round_is_the_mean_of_clipped_offers(tmp_path: Path) -> None:
    learner = learner_in(tmp_path, LocalTraining(epochs=1, batch_size=4, learning_rate=0.05))
    start = np.zeros(learner.dimension)
    plan = FleetPlan(6, 6, 1, clip_norm=0.1, noise_multiplier=0.0, sampling="fixed")
    offers = learner.deltas(np.arange(6), start)[0].numpy().astype(np.float64)
    expected = np.mean([clip_to_norm(offer, 0.1)[0] for offer in offers], axis=0)
    assert np.allclose(train_fleet(plan, learner, start).theta, expected, atol=1e-5)
    assert np.linalg.norm(expected) > 0.01


def test_a_worker_gets_a_learner_that_computes_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What travels is a pickle, to a process that has never loaded a model."""
    learner = learner_in(tmp_path, LocalTraining(epochs=1, batch_size=4, learning_rate=0.05))
    start, people = np.zeros(learner.dimension), np.array([1, 3])
    here = learner.clipped_sum(people, start, 0.1)
    travelled = pickle.dumps(learner)
    monkeypatch.delitem(AttentionInterface._global_mapping, ATTENTION)
    there = pickle.loads(travelled).clipped_sum(people, start, 0.1)
    assert np.array_equal(here.total, there.total) and here.loss == there.loss


def test_its_digest_names_texts_frame_and_settings(tmp_path: Path) -> None:
    model = tiny(tmp_path)
    files, local = HiddenFiles(model, "a" * 64, 24, tmp_path / "hidden"), LocalTraining()
    learners = [
        FrameLearner(model, frame_of(model), PEOPLE, files, local),
        FrameLearner(model, frame_of(model), PEOPLE[:5], files, local),
        FrameLearner(model, frame_of(model, rank=1), PEOPLE, files, local),
        FrameLearner(model, frame_of(model), PEOPLE, files, LocalTraining(epochs=2)),
    ]
    assert len({learner.digest for learner in learners}) == 4
    with pytest.raises(PenchantError, match="needs a text"):
        FrameLearner(model, frame_of(model), [*PEOPLE, []], files, local)
