from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import client.app
from client.reward_training import MOST_CHOICES, RewardWork, device_choices
from edge_runtime.device import Device
from edge_runtime.models.catalogue import find_model
from edge_runtime.reward.features import Pair
from edge_runtime.store.vault import LEARNT_PREFIX
from protocol import reward_rounds
from protocol.errors import PenchantError, ProtocolError
from protocol.feature_map import FeatureMap
from protocol.messages import RoundTask
from protocol.reward_model import ChoiceBatch, WeightFit, fit_weights_batch
from protocol.reward_rounds import RewardWorkOrder, contribution
from server.planning import task_from_plan
from server.reward_bases import RewardBases, RewardPlan
from tests.client.reward_help import DIMENSION, choices_of, choose_by_style, style_map
from tests.fleet_help import grid_of, make_fleet, run_fleet, settings_of

PLAN = RewardPlan(shared_rounds=2, gradient_rounds=2, final_rounds=1, maximum_count=2)


def first_task(feature_map: FeatureMap) -> tuple[RoundTask, dict[str, bytes]]:
    wanted = RewardBases(feature_map, PLAN).next_task([])
    assert wanted is not None
    task = task_from_plan(
        wanted, run_id="test", round=0, attempt=0, cohort_size=8, minimum_survivors=6, dropout_fraction=0.0,
        noise_multiplier=1.0, delta=1e-5, ring_bits=16, artefacts={},
    )  # fmt: skip
    return task, wanted["artefacts"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (made,) = make_fleet(tmp_path / "devices", 1)
    return made


def test_choices_are_the_owners_newest_oldest_first_and_the_chosen_answer_is_the_first(home: Path) -> None:
    seen: list[Pair] = []

    def phi_of(device: Device, feature_map: FeatureMap, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        seen.extend(pairs)
        return np.array([[len(answer), 0.0, 0.0, 0.0] for _, answer in pairs])

    with Device.open(home) as device:
        assert len(device_choices(device, style_map(), phi_of)) == 0 and not seen
        device.feedback.add_preference("b", "newer", "old", said_at="2025-02-02")
        device.feedback.add_preference("a", "one", "three", said_at="2025-01-01")
        choices = device_choices(device, style_map(), phi_of)
        assert seen == [("a", "one"), ("a", "three"), ("b", "newer"), ("b", "old")]
        assert choices.differences[:, 0].tolist() == [-2.0, 2.0] and choices.outcomes.tolist() == [1.0, 1.0]
        for number in range(MOST_CHOICES):
            device.feedback.add_preference(f"later {number}", "x", "yyyy", said_at="2025-03-03")
        assert len(device_choices(device, style_map(), phi_of)) == MOST_CHOICES
        assert (device_choices(device, style_map(), phi_of).differences[:, 0] == -3.0).all()


def test_a_device_computes_what_the_shared_arithmetic_says(home: Path) -> None:
    choose_by_style([home])
    task, artefacts = first_task(style_map())
    order = RewardWorkOrder.of(task, DIMENSION)
    bank = RewardBases(style_map(), PLAN).bank
    expected = contribution(ChoiceBatch.of(choices_of([home])), order, bank, np.eye(DIMENSION))
    with Device.open(home) as device:
        update = client.app.default_work(device).compute(task, artefacts)  # by way of the dispatch
    assert np.allclose(update.update, expected.vectors[0]) and update.update.shape == (task.update_dimension,)
    assert update.example_count == 9 and update.loss_sum == pytest.approx(9 * np.log(2))


def test_an_owner_without_choices_adds_zero(home: Path) -> None:
    task, artefacts = first_task(style_map())
    with Device.open(home) as device:
        update = RewardWork(device).compute(task, artefacts)
    assert not update.update.any() and update.example_count == 0 and update.loss_sum == 0.0


def test_what_does_not_belong_together_is_refused(home: Path) -> None:
    choose_by_style([home], 3)
    task, artefacts = first_task(style_map())
    foreign = FeatureMap(("hidden",), "b" * 64, "", np.zeros(5, np.float32), np.ones((5, DIMENSION), np.float32))
    wider = FeatureMap(("style",), "", "", np.zeros(9, np.float32), np.ones((9, DIMENSION), np.float32))

    def refusing(device: Device, feature_map: FeatureMap, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        raise PenchantError("another model")

    with Device.open(home) as device:
        with pytest.raises(ProtocolError, match="another frame or feature map"):
            RewardWork(device).compute(task, {**artefacts, "feature_map": foreign.to_bytes()})
        with pytest.raises(PenchantError, match="another model"):
            RewardWork(device, refusing).compute(task, artefacts)
        with pytest.raises(PenchantError, match="another model or other features"):
            RewardWork(device).compute(*first_task(wider))
        with pytest.raises(ProtocolError, match="another length"):
            RewardWork(device).compute(task.model_copy(update={"dimension": task.dimension + 1}), artefacts)


def test_no_message_and_no_file_of_the_server_carries_weights_or_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes = make_fleet(tmp_path / "devices", 6)
    choose_by_style(homes)
    fits: list[WeightFit] = []

    def noting(people: ChoiceBatch, bank: Any) -> WeightFit:
        fits.append(fit_weights_batch(people, bank))
        return fits[-1]

    monkeypatch.setattr(reward_rounds, "fit_weights_batch", noting)
    grid = grid_of(homes, record_payloads=True)
    settings = settings_of(rounds=PLAN.rounds)
    result = run_fleet(grid, settings, tmp_path / "out", RewardBases(style_map(), PLAN))
    client.app.close_devices()
    assert len(result.outcomes) == PLAN.rounds
    everything = b"".join(transfer.payload or b"" for transfer in grid.transfers)
    stored = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    # A vector with one number that is not zero, scaled to length one, is 1.0: that may stand anywhere.
    fitted = [fit.weights.ravel() for fit in fits if np.count_nonzero(fit.weights) > 1]
    private = [choices.differences for choices in choices_of(homes)]
    assert len(fitted) > 2 * len(homes) and everything and stored
    for vector in [*fitted, *(row for differences in private for row in differences)]:
        scaled = [vector, vector / np.linalg.norm(vector), -vector]
        for needle in (one.astype(kind).tobytes() for one in scaled for kind in ("<f4", "<f8", ">f4", ">f8")):
            assert needle not in everything and needle not in stored
    # The search can find: what is meant to be public is there.
    last = result.outcomes[-1].task.artefacts["bank"]
    assert last.encode() in stored
    (released,) = {release.path for release in result.releases if release.round == PLAN.rounds - 1}
    assert (tmp_path / "out" / released).read_bytes()[-16:] in stored
    with Device.open(homes[0]) as device:  # nor do the weights of training outlive it at home
        names = device.vault.blob_names(LEARNT_PREFIX)
        kept = b"".join(device.vault.get_blob(name) or b"" for name in names)
    assert not any(vector.astype("<f8").tobytes() in kept for vector in fitted)


def test_the_task_says_which_work_is_done(home: Path) -> None:
    task, artefacts = first_task(style_map())
    with Device.open(home) as device:
        with pytest.raises(KeyError, match="prior"):  # what only the work on centroids asks for
            centroids = task.model_copy(update={"settings": {"work": "centroids"}})
            client.app.default_work(device).compute(centroids, artefacts)
        with pytest.raises(ProtocolError, match="other work on rewards"):
            client.app.default_work(device).compute(task.model_copy(update={"settings": {"work": "scales"}}), artefacts)


@pytest.mark.real_model
def test_hidden_states_of_the_serving_file_make_features(home: Path) -> None:
    model = find_model()
    projection = np.random.default_rng(0).normal(size=(576, DIMENSION)).astype(np.float32)
    feature_map = FeatureMap(("hidden",), model.sha256, "", np.zeros(576, np.float32), projection)
    with Device.open(home) as device:
        device.feedback.add_preference("How are you?", "Fine, thank you!", "No.")
        update = client.app.default_work(device).compute(*first_task(feature_map))
    assert update.example_count == 1 and np.linalg.norm(update.update) > 0.01


def test_reward_rounds_load_no_training_library() -> None:
    code = (
        "import sys, client.reward_training; "
        "heavy = {'torch', 'transformers', 'peft', 'opacus'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
