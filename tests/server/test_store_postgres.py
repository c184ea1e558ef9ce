"""The store on a real PostgreSQL: a cluster that this test makes in a temporary folder and takes down again."""

from __future__ import annotations

import getpass
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from protocol.errors import PenchantError
from tests.fleet_help import MeanAlgorithm, grid_of, make_fleet, recorded_contributions, run_fleet, settings_of

if importlib.util.find_spec("psycopg") is None:
    pytest.skip("psycopg is not installed", allow_module_level=True)

from server.store_postgres import PostgresStore

PEOPLE = 3


class KilledError(BaseException):
    """Stands for kill -9."""


def _unprivileged() -> str:
    """Who runs the cluster: PostgreSQL refuses root."""
    if os.getuid() != 0:
        return getpass.getuser()
    if shutil.which("runuser") is None:
        pytest.skip("PostgreSQL does not run as root, and runuser is not installed")
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    pytest.skip("PostgreSQL does not run as root, and there is no other user")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The URL of a fresh cluster that listens on a socket in its own folder only."""
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        pytest.skip("PostgreSQL (initdb, pg_ctl) is not installed")
    user = _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="penchant-postgres-"))
    become = ["runuser", "-u", user, "--"] if os.getuid() == 0 else []

    def run(*command: str) -> None:
        subprocess.run([*become, *command], cwd=folder, check=True, timeout=60, stdout=subprocess.DEVNULL)

    if become:
        shutil.chown(folder, user)
    data = folder / "data"
    try:
        run("initdb", "-D", str(data), "-A", "trust", "-U", "penchant", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"
        run("pg_ctl", "-D", str(data), "-l", str(folder / "log"), "-w", "-t", "40", "-o", options, "start")
        try:
            yield f"postgresql:///postgres?host={folder}&user=penchant"
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def url(cluster: str) -> str:
    """The cluster, empty."""
    import psycopg

    with psycopg.connect(cluster, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return cluster


def test_a_killed_server_resumes_on_postgresql_and_spends_once(url: str, tmp_path: Path) -> None:
    homes = make_fleet(tmp_path / "devices", PEOPLE)
    settings = settings_of(run_id="r", rounds=2, noise_multiplier=1.0)

    class DyingStore(PostgresStore):
        @contextmanager
        def transaction(self, label: str) -> Iterator[object]:  # type: ignore[override]
            with super().transaction(label) as connection:
                yield connection
            if label == "spend":
                raise KilledError

    with recorded_contributions() as seen:
        with pytest.raises(KilledError):
            run_fleet(
                grid_of(homes), settings, tmp_path / "out", MeanAlgorithm(), open_store=lambda path: DyingStore(url)
            )
        assert not (tmp_path / "out" / "fleet.db").exists()
        result = run_fleet(
            grid_of(homes), settings, tmp_path / "out", MeanAlgorithm(), open_store=lambda path: PostgresStore(url)
        )
        assert len(result.outcomes) == 2 and not result.aborted
        for outcome in result.outcomes:
            parts = [seen[(outcome.task.digest(), person)] for person in range(PEOPLE)]
            assert np.array_equal(outcome.integer_sum, np.sum(parts, axis=0))
    assert [(spend.round, spend.attempt) for spend in result.ledger] == [(0, 0), (1, 0)]
    store = PostgresStore(url)
    assert [row.stage for row in store.rounds("r")] == ["done", "done"]
    assert len(store.ledger_rows()) == 2 and len(store.releases()) == 2
    assert store.replies(store.rounds("r")[0].round_key, "collect") == {}
    store.close()


def test_a_transaction_is_all_or_nothing_and_the_first_reply_stands(url: str) -> None:
    store = PostgresStore(url)
    store.open_run("r", {"rounds": 1})
    row = store.open_round("r", 0, 0, b"\x00task", ["aa"])
    with pytest.raises(PenchantError):
        store.spend(row.round_key, "{}", 1, ["aa"])  # still advertising
    assert store.ledger_rows() == [] and store.members(row.round_key, "unmask") == []
    store.save_replies(row.round_key, "advertise", {"aa": b"first"})
    store.save_replies(row.round_key, "advertise", {"aa": b"second"})
    assert store.replies(row.round_key, "advertise") == {"aa": b"first"}
    assert store.round_row(row.round_key).task == b"\x00task"
    store.close()


def test_one_server_at_a_time_and_readers_beside_it(url: str) -> None:
    first, second = PostgresStore(url), PostgresStore(url)
    first.open_run("r", {"rounds": 1})
    assert second.rounds("r") == []
    with pytest.raises(PenchantError, match="another server"):
        second.open_run("r", {"rounds": 1})
    first.close()
    second.open_run("r", {"rounds": 1})
    second.close()


def test_a_database_that_is_not_there_is_one_line_without_the_password() -> None:
    with pytest.raises(PenchantError, match="cannot be opened") as caught:
        PostgresStore("postgresql://someone:hunter2@127.0.0.1:1/nothing")
    assert "hunter2" not in str(caught.value)
