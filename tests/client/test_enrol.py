from __future__ import annotations

from pathlib import Path

import pytest

from client.enrol import enrol, pinned_roster
from edge_runtime.device import Device
from protocol.errors import PenchantError


def test_a_device_pins_the_roster_it_is_on(tmp_path: Path) -> None:
    with Device.open(tmp_path / "one", create=True, key_method="file") as device:
        with pytest.raises(PenchantError, match="enrolled in no fleet"):
            pinned_roster(device)
        mine, other = device.identity.public_bytes, b"o" * 32
        with pytest.raises(PenchantError, match="not on the fleet roster"):
            enrol(device, [other])
        with pytest.raises(PenchantError, match="32-byte"):
            enrol(device, [mine, b"short"])
        enrol(device, [other, mine, mine])
        assert pinned_roster(device) == {mine, other}
