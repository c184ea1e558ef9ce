"""The comparison of fleets: turns with a peer that trains one person after another, its environment, its failures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge_runtime.models.catalogue import cache_folder
from protocol.errors import PenchantError
from protocol.frames import Frame
from simulations.bench import fleet, fleet_language, fleet_memory
from simulations.bench.case import Case
from simulations.bench.fleet import PFL, network_case
from simulations.bench.fleet_turns import Rival, in_turns
from simulations.fleets.fleet import FleetPlan
from simulations.fleets.language_model import LocalTraining
from simulations.fleets.peers import peer as peers
from simulations.fleets.peers.peer import Peer, python_with, same_as_here
from simulations.fleets.small_networks import LocalSteps, Network, NetworkLearner, write_population

TURNS = Path(peers.__file__).parent
SPEC = {"threads": 1}
# What a peer does, in its plainest form. FACTOR is 1; another is a mutation that the comparison must show.
ONE_BY_ONE = f"""
import json, sys
import numpy as np
sys.path.append({str(TURNS)!r})
from turns import Turns
spec = json.load(open(sys.argv[1]))
people, labels = np.load(spec["folder"] + "/features.npy"), np.load(spec["folder"] + "/labels.npy")
theta, turns = np.load(spec["start"]), Turns()
ins, hidden, outs = spec["widths"]
ends = np.cumsum([hidden * ins, hidden, outs * hidden])
turns.say(ready=True)
print("whatever a library prints")
for cohort in spec["cohorts"]:
    turns.begin()
    total = np.zeros_like(theta)
    first, first_bias, second, second_bias = np.split(theta, ends)
    first, second = first.reshape(hidden, ins), second.reshape(outs, hidden)
    for person in cohort:
        x, y = people[person].astype(float), labels[person]
        h = x @ first.T + first_bias
        a = np.maximum(h, 0)
        shares = np.exp(a @ second.T + second_bias)
        g = (shares / shares.sum(1, keepdims=True) - np.eye(outs)[y]) / len(y)
        below = (g @ second) * (h > 0)
        gradient = np.concatenate([(below.T @ x).ravel(), below.sum(0), (g.T @ a).ravel(), g.sum(0)])
        delta = -spec["rate"] * gradient
        total += delta * min(1.0, spec["clip_norm"] / np.linalg.norm(delta))
    theta = theta + FACTOR * spec["server_rate"] / len(cohort) * total
    turns.end()
np.save(spec["result"], theta)
turns.say(done=True)
"""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"POPULATION": 30, "COHORT": 6, "SAME_PEOPLE": 8, "CLIP_NORM": 0.05, "INPUTS": 5}.items():
        monkeypatch.setattr(fleet, name, value)


def case_against(folder: Path, factor: float) -> tuple[float, Case]:
    script = folder / "side.py"
    script.write_text(ONE_BY_ONE.replace("FACTOR", str(factor)), "utf-8")
    rival = Rival("a plain loop", str(script), "nothing==1", 3)
    seen: list[float] = []
    case = network_case(Network((5, 12, 10)), rival, Path(sys.executable), lambda stage, part: seen.append(part))
    return seen[-1], case


@pytest.mark.usefixtures("small")
def test_both_sides_take_turns_and_agree(tmp_path: Path) -> None:
    done, case = case_against(tmp_path, 1.0)
    assert done == 1.0 and case.unit == "people/s" and case.ours > 0 and case.peer is not None and case.peer > 0
    assert len(case.more["ours_seconds"]) == len(case.more["peer_seconds"]) == 3  # the first of four is not counted
    assert case.more["agreement"] < 1e-5 and case.more["epsilon"] > 0
    assert case.ours == pytest.approx(6 / float(np.median(case.more["ours_seconds"])))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("factor", [-1.0, 1.1])
def test_a_peer_that_computes_something_else_is_seen(tmp_path: Path, factor: float) -> None:
    _, case = case_against(tmp_path, factor)
    assert case.more["agreement"] > 0.05


def test_a_peer_that_fails_is_one_clear_line(tmp_path: Path) -> None:
    script = tmp_path / "side.py"
    script.write_text("raise ValueError('no ice today')", "utf-8")
    with (
        pytest.raises(PenchantError, match=r"ended early .*no ice today"),
        Peer("it", Path(sys.executable), str(script), SPEC),
    ):
        pass
    ready = "from turns import Turns; Turns().say(ready=True); sys.exit('gone')"
    script.write_text(f"import sys; sys.path.append({str(TURNS)!r}); {ready}", "utf-8")
    with Peer("it", Path(sys.executable), str(script), SPEC) as peer, pytest.raises(PenchantError, match="gone"):
        peer.turn()


def test_a_peer_sees_neither_our_packages_path_nor_telemetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    script = tmp_path / "side.py"
    script.write_text(
        f"import os, sys; sys.path.append({str(TURNS)!r}); from turns import Turns\n"
        "names = ('PYTHONPATH', 'FLWR_TELEMETRY_ENABLED', 'RAY_USAGE_STATS_ENABLED', 'OMP_NUM_THREADS')\n"
        "Turns().say(ready=[os.environ.get(name) for name in names])",
        "utf-8",
    )
    seen: list[object] = []
    answer = Peer._answer
    monkeypatch.setattr(Peer, "_answer", lambda self, field: seen.append(answer(self, field)))
    with Peer("it", Path(sys.executable), str(script), SPEC):
        assert seen == [[None, "0", "0", "1"]]


def test_an_environment_is_made_once_and_an_impossible_one_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENCHANT_CACHE", str(tmp_path))
    commands: list[list[str]] = []
    outcome = SimpleNamespace(returncode=0, stderr="")

    def run(command: list[str], **_: object) -> SimpleNamespace:
        commands.append(command)
        if command[1:3] == ["-m", "venv"]:
            Path(command[3]).mkdir(parents=True)
            return SimpleNamespace(returncode=0, stderr="")
        return outcome

    monkeypatch.setattr(subprocess, "run", run)
    first = python_with("pfl", ["pfl==0.6.0"])
    assert python_with("pfl", ["pfl==0.6.0"]) == first and len(commands) == 2 and "pfl==0.6.0" in commands[1]
    outcome = SimpleNamespace(returncode=1, stderr="looking\nERROR: No matching distribution found for pfl==9\n")
    with pytest.raises(PenchantError, match=r"cannot install pfl==9 .*No matching distribution.*package index"):
        python_with("pfl", ["pfl==9"])
    assert len(list((tmp_path / "peers").iterdir())) == 1  # what could not be installed is gone
    assert all("+" not in pin for pin in same_as_here("torch", "numpy"))


def test_memory_is_that_of_a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_memory, "POPULATIONS", {"memory_few": 100})
    cases = fleet_memory.memory_cases(Network((4, 5, 3)), 10, lambda stage, part: None)
    assert 50 < cases["memory_few"].ours < 2000 and cases["memory_few"].more == {"population": 100, "cohort": 10}


def test_the_peer_gets_the_same_texts_frame_and_steps(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frame = Frame("a" * 64, 2, 3.0, ("blk.1.attn_output", "blk.1.ffn_down"),
                  (random.normal(size=(4, 2)).astype(np.float32),) * 2,
                  (random.normal(size=(2, 4)).astype(np.float32),) * 2)  # fmt: skip
    trainer = SimpleNamespace(
        model=SimpleNamespace(path=Path("m.gguf")), torch_model=SimpleNamespace(dtype="torch.float32")
    )
    texts = [[([5, 6, 7, 8], 2), ([5, 9], 1)], [([4, 3, 2, 1, 0, 9], 3)]]
    spec = fleet_language.peer_task(tmp_path, trainer, frame, texts, LocalTraining(2, 3, 0.01), 5)  # type: ignore[arg-type]
    json.dumps(spec)
    first, second = (np.load(tmp_path / f"person{person}.npz") for person in range(2))
    assert first["tokens"].tolist() == [[5, 6, 7, 8], [5, 9, 0, 0]] and first["there"].tolist() == [
        [1] * 4,
        [1, 1, 0, 0],
    ]
    assert first["labels"].tolist() == [[-100, -100, 7, 8], [-100, 9, -100, -100]]
    assert second["labels"].tolist() == [[-100, -100, -100, 1, 0]]  # cut to five tokens
    arrays = np.load(tmp_path / "frame.npz")
    assert np.allclose(arrays["u1"], 3.0 * frame.left[1]) and np.allclose(arrays["v1"], frame.right[1])
    assert spec["frame"]["modules"] == ["model.layers.1.self_attn.o_proj", "model.layers.1.mlp.down_proj"]
    assert (spec["epochs"], spec["batch_size"], spec["rate"]) == (2, 3, 0.01)


def test_pfl_itself_agrees(tmp_path: Path) -> None:
    made = sorted((cache_folder() / "peers").glob("pfl-*/ready"))
    if not made:
        pytest.skip("pfl has no environment yet: `penchant bench fleet` makes it")
    python = made[0].parent / "bin" / "python"
    network, plan = Network((5, 12, 10)), FleetPlan(8, 5, 3, 0.05, 0.0, "fixed")
    write_population(tmp_path, people=8, examples=4, inputs=5, classes=10, seed=0)
    start = network.start(0).astype(np.float32).astype(np.float64)
    learner = NetworkLearner(network, tmp_path, LocalSteps())
    task = {"task": "network", "widths": network.widths, "optimiser": "sgd", "rate": 0.1, "epochs": 1}
    turns = in_turns(plan, learner, start, PFL, python, tmp_path, {**task, "batch_size": None})
    assert turns.difference(start) < 1e-4
