"""A block's clipped sum is what training everybody alone and clipping one by one gives, and the noise is not in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from protocol.clipping import clip_to_norm
from protocol.errors import PenchantError
from simulations.fleets.row_files import RowFile
from simulations.fleets.small_networks import (
    FEATURES,
    LABELS,
    LocalSteps,
    Network,
    NetworkLearner,
    mean_loss,
    write_population,
)
from tests.simulations.fleets.network_help import NETWORK, learner_in


def alone(folder: Path, person: int, theta: np.ndarray, steps: LocalSteps) -> np.ndarray:
    """One person's offer, by torch's own layers and optimiser."""
    layers: list[torch.nn.Module] = []
    for ins, outs in zip(NETWORK.widths, NETWORK.widths[1:], strict=False):
        layers += [torch.nn.Linear(ins, outs), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1]).double()
    torch.nn.utils.vector_to_parameters(torch.from_numpy(theta.copy()), model.parameters())
    x = torch.from_numpy(np.load(folder / FEATURES)[person]).double()
    y = torch.from_numpy(np.load(folder / LABELS)[person])
    optimiser = torch.optim.SGD(model.parameters(), lr=steps.rate)
    for _ in range(steps.count):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    moved: np.ndarray = torch.nn.utils.parameters_to_vector(model.parameters()).detach().numpy() - theta
    return moved


@pytest.mark.parametrize("steps", [LocalSteps(1, 0.5), LocalSteps(3, 0.5)])
def test_a_block_is_everybody_trained_alone_and_clipped_one_by_one(tmp_path: Path, steps: LocalSteps) -> None:
    learner, theta, people = learner_in(tmp_path, steps=steps), NETWORK.start(1), np.array([1, 4, 7, 20])
    offers = [alone(tmp_path, int(person), theta, steps) for person in people]
    clip_norm = float(np.median([np.linalg.norm(offer) for offer in offers]))  # some are cut, some are not
    clipped = [clip_to_norm(offer, clip_norm) for offer in offers]
    block = learner.clipped_sum(people, theta, clip_norm)
    expected = np.sum([vector for vector, _ in clipped], axis=0)
    assert np.abs(block.total - expected).max() < 1e-5 * np.abs(expected).max()
    assert block.clipped == sum(not within for _, within in clipped) and 0 < block.clipped < 4
    deltas, losses = learner.deltas(people, theta)
    assert np.allclose(deltas.numpy(), offers, atol=1e-6)
    x, y = (np.load(tmp_path / name)[people] for name in (FEATURES, LABELS))
    each = [mean_loss(NETWORK, theta, x[row], y[row]) for row in range(4)]
    assert np.allclose(losses.numpy(), each, atol=1e-5)
    assert block.loss == pytest.approx(sum(each), rel=1e-5)


def test_nobody_counts_for_more_than_the_clip_norm(tmp_path: Path) -> None:
    learner, theta = learner_in(tmp_path), NETWORK.start(1)
    for person in range(5):
        cut = learner.clipped_sum(np.array([person]), theta, 1e-3)
        assert np.linalg.norm(cut.total) == pytest.approx(1e-3, rel=1e-4) and cut.clipped == 1
        free = learner.clipped_sum(np.array([person]), theta, 1e3)
        assert np.allclose(free.total, learner.deltas(np.array([person]), theta)[0][0].numpy(), atol=1e-6)


@pytest.mark.parametrize("steps", [LocalSteps(1, 0.5), LocalSteps(2, 0.5)])
def test_somebody_whose_training_fails_takes_part_with_nothing(tmp_path: Path, steps: LocalSteps) -> None:
    learner, theta = learner_in(tmp_path, steps=steps), NETWORK.start(1)
    healthy = learner.clipped_sum(np.array([0, 2]), theta, 0.1)
    x = np.load(tmp_path / FEATURES)
    x[1] = np.inf
    np.save(tmp_path / FEATURES, x)
    with_failure = learner.clipped_sum(np.array([0, 1, 2]), theta, 0.1)
    assert np.allclose(with_failure.total, healthy.total, atol=1e-7)
    assert with_failure.clipped == healthy.clipped + 1


def test_the_benchmarks_networks_have_the_sizes_it_states() -> None:
    assert Network((32, 1024, 10)).dimension == 44_042
    assert Network((32, 1024, 1024, 10)).dimension == 1_093_642


def test_rows_of_a_file_are_the_arrays(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).integers(0, 99, (7, 2, 3))
    np.save(tmp_path / "a.npy", whole)
    file, index = RowFile(tmp_path / "a.npy"), np.array([5, 0, 5])
    assert file.shape == (7, 2, 3) and np.array_equal(file.rows(index), whole[index])
    assert file.rows(np.array([], dtype=np.int64)).shape == (0, 2, 3)


def test_a_population_is_the_same_whenever_it_is_made_and_can_be_learnt(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_population(tmp_path / name, people=50, examples=4, inputs=6, classes=3, seed=1)
    write_population(tmp_path / "other", people=50, examples=4, inputs=6, classes=3, seed=2)
    x, again, other = (np.load(tmp_path / name / FEATURES) for name in ("one", "two", "other"))
    assert np.array_equal(x, again) and not np.array_equal(x, other)
    assert set(np.unique(np.load(tmp_path / "one" / LABELS))) == {0, 1, 2}


def test_examples_that_do_not_fit_are_one_clear_line(tmp_path: Path) -> None:
    write_population(tmp_path, people=3, examples=4, inputs=5, classes=3, seed=1)
    with pytest.raises(PenchantError, match="do not fit the network"):
        NetworkLearner(NETWORK, tmp_path, LocalSteps())
