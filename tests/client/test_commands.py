"""`penchant train`: what it says, how it is paused, and when it does not start."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

import client.commands as commands
import client.personal_training as personal
from client.personal_gate import GateDecision
from client.personal_plan import Privacy
from client.personal_training import NothingNew, RetrievalOnly, TrainingOutcome
from client.training_run import TrainingPaused
from edge_runtime.adapters.log import AdapterVersion
from edge_runtime.device import Device
from edge_runtime.models.resources import MIB, DeviceProfile
from protocol.errors import PenchantError
from tests.edge_runtime.adapters.test_log import tiny_adapter
from tests.edge_runtime.adapters.test_versions import answer

READY = DeviceProfile(cores=4, memory_bytes=8192 * MIB, on_mains=True, load=0.2)
OUTCOME = TrainingOutcome(
    objective="turns",
    numbers=3584,
    increment=1,
    texts=12,
    new_texts=12,
    units=12,
    stop_texts=0,
    epsilon=math.inf,
    delta=0.008,
    epsilon_so_far=math.inf,
    steps=12,
    seconds=1.5,
    served={"drafts": GateDecision(4, 3.5, 3.4, 0.1, -0.05)},
    plain=GateDecision(4, 4.0, 3.9, 0.1, -math.inf),
    lost=(),
    installed=None,
)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENCHANT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("PENCHANT_PASSPHRASE", raising=False)
    Device.open(tmp_path / "home", create=True, key_method="file").close()
    return tmp_path / "home"


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[..., TrainingOutcome]]]:
    """What stands in for the training itself; a test puts its function in."""
    stand_in: list[Callable[..., TrainingOutcome]] = [lambda device, **options: OUTCOME]
    monkeypatch.setattr(personal, "train_device", lambda device, **options: stand_in[0](device, **options))
    yield stand_in


def run(*arguments: str, code: int = 0) -> Result:
    app = typer.Typer()
    app.command()(commands.train)
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done


def test_it_says_what_came_of_it(training: list[Callable[..., TrainingOutcome]]) -> None:
    shown = run().stdout
    assert "Trained 3,584 numbers on 12 texts (your words after their requests, three to a chat)" in shown
    assert "4 newest messages, which no training saw, with what your memory adds to the prompt: 3.500 be" in shown
    assert "gain 0.100, at least -0.050 with 90 %" in shown and "Without your memory, to compare: 4.000" in shown
    assert "stays on this device and may repeat your words" in shown and "not surely a gain" in shown
    training[0] = lambda device, **options: replace(OUTCOME, lost=("answers",))
    assert "It would not surely help with answers any more, so what was live stays." in run().stdout
    training[0] = lambda device, **options: replace(
        OUTCOME,
        increment=2,
        new_texts=5,
        stop_texts=5,
        epsilon=3.9,
        epsilon_so_far=5.5,
        served={"drafts": GateDecision(4, 3.5, 3.4, 0.1, 0.05), "answers": GateDecision(2, 3.5, 3.4, 0.1, -0.1)},
        installed=AdapterVersion(7, "c" * 64, "b" * 64, "n", None, "2025-01-01", True, True, None, ("drafts",)),
    )
    private = run("--epsilon", "4", "--unit", "conversation").stdout
    assert "on 5 new texts and 7 learnt before" in private and "and stopped by 5 more" in private
    assert "What one conversation loses to the adapter: epsilon 3.90 at delta 0.008 (12 in all)" in private
    assert "In all trainings of this device together, were all shown: 5.50" in private and "repeat" not in private
    assert "2 newest answers you preferred" in private and "Live as adapter 7 for drafts. Undo" in private
    assert "For answers it is not surely a gain: there the model and your memory go on alone." in private


def test_json_has_no_infinity(training: list[Callable[..., TrainingOutcome]]) -> None:
    fields = json.loads(run("--json").stdout)
    assert fields["state"] == "finished" and fields["steps"] == 12 and fields["objective"] == "turns"
    assert fields["epsilon"] is fields["epsilon_so_far"] is fields["plain"]["gain_low"] is None
    assert fields["served"] == {
        "drafts": {
            "texts": 4,
            "before": 3.5,
            "after": 3.4,
            "gain": 0.1,
            "gain_low": -0.05,
            "margin": 0.0,
            "accepted": False,
        }
    }


def test_nothing_to_train_is_no_error(training: list[Callable[..., Any]]) -> None:
    training[0] = lambda device, **options: RetrievalOnly(5)
    assert "there are 5 texts to learn from, and an adapter takes 12" in run().stdout
    assert json.loads(run("--json").stdout) == {"state": "retrieval only", "texts": 5, "needed": 12}
    training[0] = lambda device, **options: NothingNew(2)
    assert "2 of your texts are new since the last training, and it takes 4. --fresh" in run().stdout
    assert json.loads(run("--json").stdout)["state"] == "nothing new"


def test_options_reach_the_training(training: list[Callable[..., TrainingOutcome]]) -> None:
    asked: list[dict[str, object]] = []
    training[0] = lambda device, **options: asked.append(options) or OUTCOME
    run()
    run("--epsilon", "2", "--fresh")
    run("--epsilon", "8", "--unit", "conversation")
    assert [(one["privacy"], one["fresh"]) for one in asked] == [
        (None, False),
        (Privacy(2.0), True),
        (Privacy(8.0, "conversation"), False),
    ]
    assert "give --epsilon as well" in run("--unit", "conversation", code=2).stderr and len(asked) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_pauses_and_a_second_one_stops(training: list[Callable[..., TrainingOutcome]], number: int) -> None:
    times = 1

    def signalled(device: Device, **options: Callable[[], str | None]) -> TrainingOutcome:
        assert options["wants_pause"]() is None
        for _ in range(times):
            os.kill(os.getpid(), number)
            until = time.monotonic() + 10  # two signals that wait together are one
            while options["wants_pause"]() is None and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(0.1)
        reason = options["wants_pause"]()
        assert reason is not None
        raise TrainingPaused(reason, 7, 30)

    training[0] = signalled
    before = signal.getsignal(number)
    done = run(code=130)
    assert "7 of at most 30 steps are kept; penchant train goes on" in done.stdout and "Pausing" in done.stderr
    assert json.loads(run("--json", code=130).stdout) == {
        "state": "paused",
        "reason": "You asked for it",
        "step": 7,
        "steps": 30,
    }
    assert signal.getsignal(number) is before
    if number == signal.SIGINT:
        times = 2
        assert "Stopped" in run(code=130).stderr


def test_in_the_background_it_starts_only_where_the_policy_lets_it(
    training: list[Callable[..., TrainingOutcome]], monkeypatch: pytest.MonkeyPatch
) -> None:
    training[0] = lambda device, **options: pytest.fail("it trained")
    for facts, why in ((replace(READY, on_mains=False), "battery"), (replace(READY, load=3.0), "busy")):
        monkeypatch.setattr(commands, "probe", lambda facts=facts: facts)
        assert why in run("--background").stdout
        assert json.loads(run("--background", "--json").stdout)["state"] == "paused"


def test_in_the_background_it_pauses_when_the_policy_says_so(
    training: list[Callable[..., TrainingOutcome]], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts, lowered = [READY], list[bool]()
    monkeypatch.setattr(commands, "probe", lambda: facts[0])
    monkeypatch.setattr(commands, "_SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(commands.BackgroundPolicy, "lower_priority", lambda self: lowered.append(True))

    def unplugged(device: Device, **options: Callable[[], str | None]) -> TrainingOutcome:
        import torch

        facts[0] = replace(READY, load=2.0 + torch.get_num_threads())  # its own threads are no reason
        assert options["wants_pause"]() is None
        facts[0] = replace(READY, load=2.5 + torch.get_num_threads())
        assert options["wants_pause"]() == "The device is busy"
        facts[0] = replace(READY, on_mains=False)
        reason = options["wants_pause"]()
        raise TrainingPaused(str(reason), 3, 30)

    training[0] = unplugged
    assert "the device runs on battery. 3 of at most 30" in run("--background").stdout and lowered == [True]
    facts[0] = replace(READY, on_mains=False)
    training[0] = lambda device, **options: pytest.fail("paused") if options["wants_pause"]() else OUTCOME
    run()  # in the foreground nobody looks at the battery


def test_a_version_liked_less_is_taken_back_first_and_said(
    training: list[Callable[..., TrainingOutcome]], own_home: Path
) -> None:
    with Device.open(own_home) as device:
        answer(device, None, "." * 20)
        answer(device, device.adapters.install(tiny_adapter(0), note=""), "d" * 12 + "." * 8)
    training[0] = lambda device, **options: OUTCOME if device.adapters.live() is None else pytest.fail("still live")
    assert "Adapter 1 was rolled back" in run().stderr and "rolled back" not in run().stderr


def test_errors_are_one_line(training: list[Callable[..., TrainingOutcome]]) -> None:
    def failing(device: Device, **options: object) -> TrainingOutcome:
        raise PenchantError("there are 3 texts to learn from")

    training[0] = failing
    done = run(code=2)
    assert done.stderr.strip() == "Error: there are 3 texts to learn from" and done.stdout == ""
    for wrong in (("--memory", "10"), ("--epsilon", "0")):
        run(*wrong, code=2)


def test_help_says_how_it_is_paused_and_resumed() -> None:
    shown = run("--help").stdout
    for word in ("--background", "--fresh", "--memory", "--json", "--home", "Ctrl-C pauses"):
        assert word in shown
