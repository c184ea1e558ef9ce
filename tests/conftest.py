"""What every test finds, and what none may leave behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

# A shell that starts the tests in the background lets them ignore Ctrl-C, and so would every program that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def the_apps_train_for_real_again() -> Iterator[None]:
    """Fail the test that leaves a training double in `client.app` (every later fleet would use it), and mend it."""
    yield
    import sys

    app = sys.modules.get("client.app")
    if app is not None and app.work_factory is not app.default_work:
        app.work_factory = app.default_work
        pytest.fail("this test left its training double in client.app.work_factory")
