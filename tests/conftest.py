"""What no test may leave behind: a fake way of training in the device's app."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def the_apps_train_for_real_again() -> Iterator[None]:
    """Fail the test that leaves a training double in `client.app` (every later fleet would use it), and mend it."""
    yield
    import sys

    app = sys.modules.get("client.app")
    if app is not None and app.work_factory is not app.default_work:
        app.work_factory = app.default_work
        pytest.fail("this test left its training double in client.app.work_factory")
