from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from protocol.errors import PenchantError
from server.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "fleet.db")
    store.open_run("r", {"rounds": 1})
    return store


def test_a_round_moves_only_forward_and_only_once(store: Store) -> None:
    row = store.open_round("r", 0, 0, b"task", ["aa", "bb", "cc"])
    store.save_replies(row.round_key, "advertise", {"aa": b"1", "bb": b"2"})
    store.advance(row.round_key, "advertise", "share", ["aa", "bb"])
    with pytest.raises(PenchantError, match="not at stage"):
        store.advance(row.round_key, "advertise", "share", ["aa"])
    assert store.round_row(row.round_key).stage == "share"
    assert store.members(row.round_key, "share") == ["aa", "bb"]
    with pytest.raises(sqlite3.IntegrityError):
        store.open_round("r", 0, 0, b"task", ["aa"])


def test_the_first_reply_of_a_device_stands(store: Store) -> None:
    row = store.open_round("r", 0, 0, b"task", ["aa"])
    store.save_replies(row.round_key, "advertise", {"aa": b"first"})
    store.save_replies(row.round_key, "advertise", {"aa": b"second"})
    assert store.replies(row.round_key, "advertise") == {"aa": b"first"}


def test_the_spend_and_the_unmask_stage_come_together_or_not_at_all(store: Store) -> None:
    row = store.open_round("r", 0, 0, b"task", ["aa"])
    with pytest.raises(PenchantError):
        store.spend(row.round_key, "{}", 1, ["aa"])  # still advertising
    assert store.ledger_rows() == [] and store.members(row.round_key, "unmask") == []
    store.advance(row.round_key, "advertise", "share", ["aa"])
    store.advance(row.round_key, "share", "collect", ["aa"])
    store.advance(row.round_key, "collect", "confirm", ["aa"])
    store.spend(row.round_key, "{}", 1, ["aa"])
    assert [entry.round_key for entry in store.ledger_rows()] == [row.round_key]
    assert store.round_row(row.round_key).stage == "unmask"


def test_the_end_of_a_round_deletes_its_replies_and_keeps_its_spend(store: Store) -> None:
    for attempt, ending in ((0, "outcome"), (1, "abort")):
        row = store.open_round("r", 0, attempt, b"task", ["aa"])
        for before, after in (("advertise", "share"), ("share", "collect"), ("collect", "confirm")):
            store.save_replies(row.round_key, before, {"aa": b"x"})
            store.advance(row.round_key, before, after, ["aa"])
        store.spend(row.round_key, "{}", 1, ["aa"])
        if ending == "outcome":
            store.save_outcome(row.round_key, b"sum")
        else:
            store.abort(row.round_key, "too few")
        assert store.replies(row.round_key, "advertise") == {} == store.replies(row.round_key, "share")
    assert len(store.ledger_rows()) == 2
    assert [row.stage for row in store.rounds("r")] == ["publish", "aborted"]


def test_it_reopens_where_it_was_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    first = Store(path)
    first.open_run("r", {"rounds": 1})
    first.open_round("r", 0, 0, b"task", ["aa"])
    first.close()
    again = Store(path)
    again.open_run("r", {"rounds": 1})
    assert [row.task for row in again.rounds("r")] == [b"task"]
    with pytest.raises(PenchantError, match="other settings"):
        again.open_run("r", {"rounds": 2})
    again._connection.execute("PRAGMA user_version=99")
    again.close()
    with pytest.raises(PenchantError, match="another version"):
        Store(path)
    (tmp_path / "junk.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(PenchantError, match="not a fleet store"):
        Store(tmp_path / "junk.db")
