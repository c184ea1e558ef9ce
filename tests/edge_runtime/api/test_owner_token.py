"""The owner's token: random, kept, replaced, compared."""

from __future__ import annotations

import re
from pathlib import Path

from edge_runtime.api.owner_token import draw_token, is_accepted, owner_token, replace_token
from edge_runtime.device import Device
from tests.edge_runtime.api.api_helpers import make_device


def test_a_token_is_drawn_once_kept_encrypted_and_replaced_on_demand(tmp_path: Path) -> None:
    home = make_device(tmp_path / "home")
    with Device.open(home) as device:
        first = owner_token(device.vault)
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", first) and owner_token(device.vault) == first
    for file in home.iterdir():
        if file.is_file():
            assert first.encode() not in file.read_bytes()
    with Device.open(home) as device:
        assert owner_token(device.vault) == first
        second = replace_token(device.vault)
        assert second != first and owner_token(device.vault) == second


def test_only_a_whole_token_is_accepted() -> None:
    token, other = draw_token(), draw_token()
    assert is_accepted(token, [other, token]) and token != other
    for wrong in ("", token[:-1], token + "A", token.swapcase(), "ü" * 43, "\ud800"):
        assert not is_accepted(wrong, [other, token])
    assert not is_accepted("", [])
