"""Progress of long work: one bar per stage on a terminal; elsewhere plain lines."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

SECONDS_BETWEEN_LINES = 20.0


class StageDisplay:
    """One progress bar per stage on the terminal; elsewhere plain lines, one per stage and one every 20 seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<34}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> StageDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._last_line = time.monotonic()
            self._console.print(f"{self._last_line - self._started:6.1f} s  {text}", highlight=False)

    def __call__(self, stage: str, fraction: float) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=1.0)
            self._line(stage)
        elif fraction < 1.0 and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._line(f"{stage}: {fraction:.0%}")
        self._progress.update(self._tasks[stage], completed=fraction)
        if fraction >= 1.0:
            self._progress.stop_task(self._tasks[stage])
