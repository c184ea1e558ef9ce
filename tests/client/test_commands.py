"""`penchant train`: what it says, how it is paused, and when it does not start."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

import client.commands as commands
import client.personal_training as personal
from client.personal_training import TrainingOutcome
from client.training_run import TrainingPaused
from edge_runtime.device import Device
from edge_runtime.models.resources import MIB, DeviceProfile
from protocol.errors import PenchantError
from tests.edge_runtime.adapters.test_log import tiny_adapter
from tests.edge_runtime.adapters.test_versions import answer

READY = DeviceProfile(cores=4, memory_bytes=8192 * MIB, on_mains=True, load=0.2)
OUTCOME = TrainingOutcome(12, 4, 3.9, 0.008, 4.0, 3.9, 0.1, 0.05, None, 0, 12, 1.5, 5.5)


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
    assert "Trained on 12 texts. Loss on the 4 newest" in shown and "epsilon 3.90" in shown
    assert "In all trainings of this device together, were all shown: 5.50" in shown and "stays" in shown
    training[0] = lambda device, **options: replace(
        OUTCOME, epsilon=math.inf, epsilon_so_far=math.inf, stop_texts=5, gain_low=-math.inf
    )
    without = run("--without-privacy")
    assert "stopped after 12 steps by 5 more" in without.stdout and "may repeat your words" in without.stdout
    fields = json.loads(run("--without-privacy", "--json").stdout)
    assert fields["state"] == "finished" and fields["steps"] == 12
    assert fields["epsilon"] is fields["epsilon_so_far"] is fields["gain_low"] is None


def test_options_reach_the_training(training: list[Callable[..., TrainingOutcome]]) -> None:
    asked: list[dict[str, object]] = []
    training[0] = lambda device, **options: asked.append(options) or OUTCOME
    run()
    run("--epsilon", "2", "--fresh")
    run("--without-privacy")
    assert [(one["epsilon"], one["fresh"]) for one in asked] == [(8.0, False), (2.0, True), (None, False)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_pauses_and_a_second_one_stops(training: list[Callable[..., TrainingOutcome]], number: int) -> None:
    times = 1

    def signalled(device: Device, **options: Callable[[], str | None]) -> TrainingOutcome:
        assert options["wants_pause"]() is None
        for _ in range(times):
            os.kill(os.getpid(), number)
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
