"""Who has a device open: advisory locks (flock) on two files of its home.

`penchant.lock` is held shared by everybody who has the device open. Whoever changes the key needs it alone. A
shared flock cannot be made exclusive in one step: it is given up first, and a third program could come in
between. Therefore both opening and becoming alone pass through `penchant.gate`, which one program holds at a time.

The locks vanish with the process that holds them, so a killed one blocks nobody. Where there is no flock
(Windows), everybody counts as alone: a second program that has the device open while its key is rotated then gets
an error at its next step and has to be started again; nothing it was promised is lost, since its writes fail
before they are acknowledged.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from protocol.errors import PenchantError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Long enough for another program to re-encrypt several gigabytes.
GATE_SECONDS: Final = 120.0
_OPEN, _GATE = "penchant.lock", "penchant.gate"


class HomeLock:
    """A shared hold on the device in `home`, until `release`."""

    def __init__(self, home: Path) -> None:
        """PenchantError if the folder cannot be written, or the gate stays closed for `GATE_SECONDS`."""
        self.home = home
        self._descriptor: int | None = _opened(home / _OPEN)
        try:
            with self._gate(GATE_SECONDS):
                _flock(self._descriptor, shared=True)
        except BaseException:
            self.release()
            raise

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody else has the device open; if so, nobody can open it until the block ends. Never
        waits."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self._gate(0.0))
            except GateClosedError:
                yield False
                return
            if self._descriptor is None:
                raise PenchantError("This device is closed or locked; open it again.")
            is_alone = _flock(self._descriptor, shared=False)
            try:
                yield is_alone
            finally:
                # Nobody can have come in: they would have needed the gate.
                _flock(self._descriptor, shared=True)

    @contextmanager
    def _gate(self, seconds: float) -> Iterator[None]:
        descriptor = _opened(self.home / _GATE)
        try:
            deadline = time.monotonic() + seconds
            while not _flock(descriptor, shared=False):
                if time.monotonic() >= deadline:
                    raise GateClosedError(
                        f"Another program is changing the key of {self.home}; wait until it is done and try again."
                    )
                time.sleep(0.01)
            yield
        finally:
            os.close(descriptor)  # releases it too

    def release(self) -> None:
        """Lets go; harmless if called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        # a device that was dropped without being closed must not count as one that is open
        if getattr(self, "_descriptor", None) is not None:
            self.release()


class GateClosedError(PenchantError):
    """Another program is opening this device or changing its key right now."""


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    except OSError as error:
        raise PenchantError(f"Cannot open {path}: {error.strerror}.") from None


def _flock(descriptor: int, *, shared: bool) -> bool:
    """Takes the lock if it is free (it always is for `shared`: an exclusive holder holds the gate too)."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise PenchantError(f"This file system cannot lock files: {error.strerror}.") from None
    return True
