"""The commands of a device that train: `penchant train`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from types import FrameType
from typing import Annotated

import typer

from edge_runtime.commands.support import (
    INTERRUPTED,
    AsJson,
    Home,
    need,
    one_line_errors,
    opened_device,
    print_json,
)
from edge_runtime.memory.statements import utc_now
from edge_runtime.models.background import BackgroundPolicy, memory_capped, without_own
from edge_runtime.models.resources import MIB, probe
from protocol.errors import PenchantError

_SECONDS_BETWEEN_LOOKS = 10.0  # at the battery and the load
_ASKED = "You asked for it"


class Unit(StrEnum):
    """What a private training protects as one."""

    TEXT = "text"
    CONVERSATION = "conversation"


@one_line_errors
def train(
    epsilon: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=100.0,
            help="Train with noise, so that one unit loses at most this much to the adapter; 8 is usual.",
            show_default="no noise: the adapter stays here, and may repeat your words",
        ),
    ] = None,
    unit: Annotated[
        Unit, typer.Option(help="What --epsilon protects as one: a text, or all of a conversation or document.")
    ] = Unit.TEXT,
    background: Annotated[
        bool,
        typer.Option("--background", help="Only on mains power and while the device is idle; pauses when it is not."),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over instead of going on with a training that was interrupted.")
    ] = False,
    memory: Annotated[int, typer.Option(min=256, help="Most memory that training may take, in MiB.")] = 3072,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Train your own adapter on this device; it goes live only if it surely helps on your newest texts, which it
    never saw, with what your memory adds to the prompt.

    Ctrl-C pauses: the same command goes on where it stopped, to the very same adapter. So it does after a power cut.
    """
    if unit is Unit.CONVERSATION and epsilon is None:
        raise PenchantError("--unit says what --epsilon protects: give --epsilon as well, 8 is usual")
    need("torch", "transformers", "opacus", "scipy")
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    policy = BackgroundPolicy(memory_cap_bytes=memory * MIB)
    if background and not (decision := policy.may_run(probe())).allowed:
        _tell_paused(as_json, decision.reason, 0, 0)
        return
    from client.outcome_words import outcome_json, outcome_lines
    from client.personal_plan import Privacy
    from client.personal_training import train_device
    from client.training_run import TrainingPaused
    from edge_runtime.adapters.versions import watch

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with (
        opened_device(home, create=False) as device,
        memory_capped(memory * MIB),
        pause_on_signals() as asked,
        Progress(*columns, console=Console(stderr=True), transient=True) as progress,
    ):
        if background:
            policy.lower_priority()
        if taken_back := watch(device.vault, device.conversations, device.feedback):
            typer.echo(f"Adapter {taken_back.version} was {taken_back.reason}.", err=True)

        def show(stage: str, fraction: float) -> None:
            task = next((one for one in progress.tasks if one.description == stage.capitalize()), None)
            if task is None:  # with what was done before: a resumed run begins there, which is no speed
                progress.add_task(stage.capitalize(), total=1.0, completed=fraction)  # type: ignore[arg-type]
            else:
                progress.update(task.id, completed=fraction)

        try:
            outcome = train_device(
                device,
                privacy=None if epsilon is None else Privacy(epsilon, unit.value),
                created=utc_now(),
                on_progress=show,
                on_notice=lambda line: typer.echo(line, err=True),
                wants_pause=_pause_reasons(asked, policy if background else None),
                fresh=fresh,
                memory_bytes=memory * MIB,
            )
        except TrainingPaused as paused:
            _tell_paused(as_json, paused.reason, paused.step, paused.steps)
            raise typer.Exit(INTERRUPTED if paused.reason == _ASKED else 0) from None
    if as_json:
        print_json(outcome_json(outcome))
        return
    for line in outcome_lines(outcome, unit.value):
        typer.echo(line)


@contextmanager
def pause_on_signals(
    line: str = "Pausing after this step; once more to stop at once.",
) -> Iterator[Callable[[], bool]]:
    """Inside the block the first Ctrl-C (SIGINT) or SIGTERM only says that a pause is wanted, which the value of the
    block tells, and the owner gets the ``line``; the second acts as usual."""
    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main one
        yield lambda: False
        return
    wanted = False
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal wanted
        wanted = True
        signal.signal(number, before[number])  # type: ignore[index]
        typer.echo(line, err=True)

    try:
        for number in before:
            signal.signal(number, note)
        yield lambda: wanted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pause_reasons(asked: Callable[[], bool], policy: BackgroundPolicy | None) -> Callable[[], str | None]:
    """Why to pause now, or None: the owner asked, or (with a policy) the device has something better to do."""
    looked_at = time.monotonic()

    def reason() -> str | None:
        nonlocal looked_at
        if asked():
            return _ASKED
        if policy is None or time.monotonic() - looked_at < _SECONDS_BETWEEN_LOOKS:
            return None
        import psutil
        import torch

        looked_at = time.monotonic()
        resident = int(psutil.Process().memory_info().rss)
        facts = without_own(probe(), threads=torch.get_num_threads(), resident_bytes=resident)
        decision = policy.may_run(facts)
        return None if decision.allowed else decision.reason.capitalize()

    return reason


def _tell_paused(as_json: bool, reason: str, step: int, steps: int) -> None:
    if as_json:
        print_json({"state": "paused", "reason": reason, "step": step, "steps": steps})
        return
    done = f" {step} of at most {steps} steps are kept;" if steps else ""
    typer.echo(f"Paused: {reason[0].lower()}{reason[1:]}.{done} penchant train goes on where it stopped.")
