"""Flipped bytes, truncated files, a full disk, a killed program at 50 random points, two programs at once: one clear
error at most, nothing lost that was acknowledged, nothing back that was forgotten."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.device import Device
from edge_runtime.forgetting import forget
from edge_runtime.memory.statements import Statement
from edge_runtime.store import bundle as bundle_module
from edge_runtime.store.bundle import open_bundle
from edge_runtime.store.keys import open_key
from edge_runtime.transfer import export_bundle, import_bundle
from protocol.errors import PenchantError
from tests.edge_runtime.memory_helpers import HashingEmbedder, decrypted_pages

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that share what is loaded")
KILLS = 50
PASSPHRASE = "x"


@pytest.fixture(autouse=True)
def _fast_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "SCRYPT_COST", {"n": 2, "r": 8, "p": 1})


def opened(home: Path) -> Device:
    return Device.open(home, create=not home.exists(), key_method="file", embedder=HashingEmbedder())


def contents(device: Device) -> dict[str, object]:
    """Everything the owner can see."""
    talks = [device.conversations.turns(talk.id) for talk in device.conversations.listing()]
    return {
        "memories": device.memory.items(),
        "found": [recalled.item.id for recalled in device.memory.recall("the 7 herons", k=3, now="2025-05-05")],
        "turns": talks,
        "feedback": device.feedback.preferences(),
        "profile": device.profile.attributes(),
        "settings": device.settings,
        "identity": device.identity.public_bytes,
    }


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A closed device with a little of everything."""
    with opened(tmp_path / "home") as device:
        for number in range(30):
            device.memory.remember(f"I saw {number} herons at mile {number}", said_at="2025-01-01")
        talk = device.conversations.new()
        for number in range(10):
            device.conversations.add(talk, "user", f"How many herons at mile {number}?")
        device.feedback.add_preference("a bird", "heron", "stork")
        device.profile.set_attribute("hobby", "herons")
    return tmp_path / "home"


def assert_whole_or_refused(home: Path, truth: dict[str, object]) -> bool:
    """Opening and reading either gives what was there or one clear line; whether it was the line."""
    try:
        with Device.open(home, embedder=HashingEmbedder()) as device:
            assert contents(device) == truth
    except PenchantError as error:
        assert str(error) and "\n" not in str(error) and "heron" not in str(error)
        return True
    return False


def test_flipped_bytes_are_refused_or_harmless(home: Path) -> None:
    with Device.open(home, embedder=HashingEmbedder()) as device:
        truth = contents(device)
    rng, refused = random.Random(3), 0
    files = [path for path in sorted(home.iterdir()) if path.stat().st_size]
    assert {"penchant.db", "key.json", "device.key"} <= {path.name for path in files}
    for number in range(60):
        path = files[number % len(files)]
        whole = path.read_bytes()
        position = rng.randrange(len(whole))
        path.write_bytes(whole[:position] + bytes([whole[position] ^ (1 << rng.randrange(8))]) + whole[position + 1 :])
        refused += assert_whole_or_refused(home, truth)
        for stray in home.glob("penchant.db-*"):
            stray.unlink()
        path.write_bytes(whole)
    assert refused >= 20  # most damage is seen, not survived by chance
    assert not assert_whole_or_refused(home, truth)


def test_truncated_files_are_refused_or_harmless(home: Path) -> None:
    with Device.open(home, embedder=HashingEmbedder()) as device:
        truth = contents(device)
    for path in [path for path in sorted(home.iterdir()) if path.stat().st_size]:
        whole = path.read_bytes()
        page = 4096 * (len(whole) // 8192)
        for size in {0, 1, len(whole) // 3, page, len(whole) - 1} - {len(whole)}:
            path.write_bytes(whole[:size])
            refused = assert_whole_or_refused(home, truth)
            # the last byte may be padding of a page that nobody reads, or the end of a line
            assert refused or size == len(whole) - 1
            for stray in home.glob("penchant.db-*"):
                stray.unlink()
            path.write_bytes(whole)
    for name in ("penchant.db", "device.key", "key.json"):
        (home / name).rename(home / "elsewhere")
        assert assert_whole_or_refused(home, truth)
        (home / "elsewhere").rename(home / name)
    assert not assert_whole_or_refused(home, truth)


class Child:
    """A forked process that runs `work`, given a function that reports a line; its lines arrive here."""

    def __init__(self, work: Callable[[Callable[[object], None]], None]) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self._read)
            status = 1
            try:
                work(lambda line: _tell(write, line))
                status = 0
            except PenchantError as error:
                _tell(write, ["error", str(error)])
            except BaseException as error:  # a test must see it: the child has no other way to tell
                _tell(write, ["traceback", repr(error)])
            finally:
                sys.stderr.flush()
                os._exit(status)
        os.close(write)

    def lines(self) -> list[list[object]]:
        """Waits for the end; the complete lines."""
        with os.fdopen(self._read, "rb") as pipe:
            text = pipe.read().decode()
        os.waitpid(self.pid, 0)
        lines = [json.loads(line) for line in text.split("\n")[:-1]]
        assert not [line for line in lines if line[0] == "traceback"], lines
        return lines


def _tell(pipe: int, line: object) -> None:
    os.write(pipe, (json.dumps(line) + "\n").encode())


def test_a_full_disk_is_one_line_and_loses_nothing_acknowledged(home: Path) -> None:
    size = (home / "penchant.db").stat().st_size

    def fill(report: Callable[[object], None]) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 400_000, resource.RLIM_INFINITY))
        with opened(home) as device:
            try:
                for number in range(5000):
                    device.memory.remember(f"Bittern {number} " + os.urandom(2000).hex())
                    report(["kept", number])
            except PenchantError as error:
                report(["full", str(error)])
            # too little is left to encrypt everything anew: the memory goes all the same, the key stays for now
            first = device.memory.recall("Bittern 0", k=1, rankers=("bm25",))[0].item
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            try:
                (receipt,) = forget(device, [first.id])
                report(["forgot", first.text[:10], receipt.key_rotated])
            except PenchantError as error:
                report(["not forgotten", str(error)])

    lines = Child(fill).lines()
    kept = [line[1] for line in lines if line[0] == "kept"]
    (full,) = [str(line[1]) for line in lines if line[0] == "full"]
    assert len(kept) >= 5 and "disk is full" in full and "\n" not in full
    forgot = [line for line in lines if line[0] == "forgot"]
    refused = [line for line in lines if line[0] == "not forgotten"]
    assert len(forgot) + len(refused) == 1 and all(line[2] is False for line in forgot)
    assert all("disk" in str(line[1]) for line in refused)
    with opened(home) as device:
        texts = [item.text for item in device.memory.items()]
        numbers = {int(text.split()[1]) for text in texts if text.startswith("Bittern")}
        assert numbers >= set(kept[1:] if forgot else kept) and sum("herons" in text for text in texts) == 30
        assert device.vault.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


class Expectation:
    """What a device must and must not hold, from what its programs announced and acknowledged."""

    def __init__(self) -> None:
        self.present: set[str] = set()
        self.gone: set[str] = set()
        self.unsure: list[set[str]] = []

    def read(self, lines: list[list[object]]) -> None:
        """Steps come as ["begin" | "done", what, words]; one that was begun only may have happened or not."""
        for index, (phase, what, *words) in enumerate(lines):
            step = {str(word) for word in words}
            if phase == "begin":
                if index == len(lines) - 1:
                    self.unsure.append(step)
                    self.present -= step
            elif what in ("remember", "import"):
                self.present |= step
            elif what == "forget":
                self.present -= step
                self.gone |= step

    def check(self, device: Device) -> None:
        held = {item.text.split()[2] for item in device.memory.items()}
        assert self.present <= held, f"lost: {self.present - held}"
        assert not self.gone & held, f"back: {self.gone & held}"
        for step in self.unsure:  # all or nothing
            assert step <= held or not step & held, f"half of {step}"
            (self.present if step <= held else self.gone).update(step)
        self.unsure.clear()


def busy(home: Path, bundles: list[Path], seed: int) -> Callable[[Callable[[object], None]], None]:
    """A program that remembers, forgets, rotates, exports and imports, and says so before and after each step."""

    def work(report: Callable[[object], None]) -> None:
        rng, left = random.Random(seed), list(bundles)
        with opened(home) as device:
            for number in range(10_000):
                what = rng.choices(("remember", "forget", "rotate", "export", "import"), (8, 4, 2, 1, 2))[0]
                items = device.memory.items()
                if what == "remember":
                    words = [f"word{seed}x{number}x{part}" for part in range(rng.randrange(1, 4))]
                    report(["begin", what, *words])
                    device.memory.remember_many([Statement(f"I like {word} a lot") for word in words])
                elif what == "forget" and items:
                    chosen = rng.sample(items, min(len(items), rng.randrange(1, 4)))
                    words = [item.text.split()[2] for item in chosen]
                    report(["begin", what, *words])
                    forget(device, [item.id for item in chosen])
                elif what == "rotate":
                    words = []
                    report(["begin", what])
                    device.rotate_key()
                elif what == "export":
                    words = []
                    report(["begin", what])
                    export_bundle(device, home.parent / f"out{seed}x{number}", PASSPHRASE)
                elif what == "import" and left:
                    path = left.pop()
                    words = path.stem.split("-")
                    report(["begin", what, *words])
                    if import_bundle(device, open_bundle(path, PASSPHRASE)).how == "nothing":
                        words = []
                else:
                    continue
                report(["done", what, *words])

    return work


def test_a_program_killed_at_random_points_loses_nothing_and_brings_nothing_back(tmp_path: Path) -> None:
    home, rng, expected = tmp_path / "home", random.Random(5), Expectation()
    bundles = []
    for number in range(KILLS // 4):
        with opened(tmp_path / f"other{number}") as other:
            words = [f"brought{number}x{part}" for part in range(3)]
            for word in words:
                other.memory.remember(f"I like {word} a lot")
            bundles.append(export_bundle(other, tmp_path / f"{'-'.join(words)}.penchant", PASSPHRASE))
    opened(home).close()
    interrupted: set[str] = set()
    for number in range(KILLS):
        child = Child(busy(home, [] if number % 4 else bundles[number // 4 : number // 4 + 1], number))
        time.sleep(0.02 + 0.12 * rng.random())
        os.kill(child.pid, signal.SIGKILL)
        lines = child.lines()
        expected.read(lines)
        if lines and lines[-1][0] == "begin":
            interrupted.add(str(lines[-1][1]))
        with opened(home) as device:
            expected.check(device)
    assert len(expected.present) >= 10 and len(expected.gone) >= 10 and len(interrupted) >= 3
    with opened(home) as device:
        assert device.vault.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        device.rotate_key()
    (key,) = open_key(home).candidates
    pages = decrypted_pages(home, bytes(key))
    assert not [word for word in expected.gone if word.encode() in pages]
    assert not list(home.glob(".*"))  # nothing of the killed is left lying about


def test_an_import_into_a_new_device_killed_at_random_points_is_all_or_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "other") as other:
        other.memory.remember_many([Statement(f"I saw {number} herons " + "and more " * 50) for number in range(400)])
        path = export_bundle(other, tmp_path / "b.penchant", PASSPHRASE)

    rng, ends = random.Random(7), set()
    for number in range(8):
        home = tmp_path / f"home{number}"
        opened(home).close()

        def work(report: Callable[[object], None], home: Path = home) -> None:
            with opened(home) as device:
                report(["begin", "import"])
                import_bundle(device, open_bundle(path, PASSPHRASE))
                report(["done", "import"])

        child = Child(work)
        time.sleep(0.003 + 0.06 * rng.random())
        os.kill(child.pid, signal.SIGKILL)
        lines = child.lines()
        with opened(home) as device:
            held = len(device.memory)
            assert held == 400 if ["done", "import"] in lines else held in (0, 400)
            ends.add((len(lines), held))
            import_bundle(device, open_bundle(path, PASSPHRASE))
            assert len(device.memory) == 400 and not device.may_contribute
            assert device.vault.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert (1, 0) in ends  # some were hit in the middle


def test_two_programs_at_once_wait_for_each_other(tmp_path: Path) -> None:
    home = tmp_path / "home"
    opened(home).close()

    def work(seed: int) -> Callable[[Callable[[object], None]], None]:
        def run(report: Callable[[object], None]) -> None:
            for number in range(4):  # opening while another rotates, too
                with opened(home) as device:
                    for part in range(5):
                        item = device.memory.remember(f"I like word{seed}x{number}x{part} a lot")
                        report(["done", "remember", f"word{seed}x{number}x{part}"])
                    forget(device, [item.id])
                    report(["done", "forget", f"word{seed}x{number}x4"])

        return run

    children, expected = [Child(work(seed)) for seed in range(3)], Expectation()
    for child in children:
        lines = child.lines()
        assert len(lines) == 24, lines
        expected.read(lines)
    with opened(home) as device:
        expected.check(device)
        assert len(expected.present) == 48 and len(device.memory) == 48
