"""Import: once, resumable, safe against a kill, with the old passages of changed files gone for good."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_runtime.device import Device
from edge_runtime.forgetting import forget
from edge_runtime.ingestion.documents import Documents, document_id
from edge_runtime.ingestion.ingest import IngestReport, forget_document, ingest
from protocol.errors import PenchantError
from tests.edge_runtime.ingestion.pdf_help import pdf_bytes
from tests.edge_runtime.memory_helpers import HashingEmbedder

ROOT = Path(__file__).parents[3]
CHAT = "14/03/2025, 09:30 - Ana: where do you live?\n14/03/2025, 09:31 - Ines Duarte: in Ghent\n"


TURNS = [{"type": "message", "date": "2025-03-14", "from": "Ana", "text": ["a", {"text": "b"}]}]
NODES = {"a": {"message": {"author": {"role": "user"}, "content": {"content_type": "text", "parts": ["x"]}}}}
SAMPLES = [
    ("a.txt", CHAT.encode()),
    ("a.md", b"---\ndate: 2025-01-01\n---\n# A\n```\ncode\n```\n- list\n"),
    ("a.pdf", pdf_bytes([["Glaze is glass."]], info="/Title (x) /ModDate (D:2024)", compress=True)),
    ("a.html", b"<html><head><meta charset=utf-8><title>x</title><body><h1>A</h1><p>b</body></html>"),
    ("a.eml", b"From: a <a@b.c>\nDate: Fri, 14 Mar 2025 23:30:00 -0500\nSubject: =?utf-8?q?x?=\n\nbody\n> quote\n"),
    ("a.mbox", b"From x\nFrom: a@b.c\nSubject: x\n\nbody\n\nFrom y\nFrom: a@b.c\n\nbody\n"),
    ("result.json", json.dumps({"name": "Ana", "messages": TURNS}).encode()),
    ("conversations.json", json.dumps([{"id": "1", "mapping": NODES, "create_time": 1.7e9}]).encode()),
    ("a.jsonl", b'{"date": "2025-03-14", "author": "A", "text": "x"}\n{"text": "y", "said_at": "2025-03-14"}\n'),
]


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    with Device.open(tmp_path / "home", create=True, key_method="file", embedder=HashingEmbedder()) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def texts(device: Device) -> list[str]:
    return [item.text for item in device.memory.items()]


def counts(report: IngestReport) -> tuple[int, int, int, int]:
    return report.documents, report.unchanged, report.chunks, report.duplicates


def test_a_folder_of_everything(device: Device, folder: Path) -> None:
    (folder / "notes.md").write_text("# Kiln\nIt stands in the garden.\n")
    (folder / "chat.txt").write_text(CHAT)
    (folder / "book.pdf").write_bytes(pdf_bytes([["Glaze is glass."]]))
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\x00")
    (folder / "llama.txt").write_bytes(b"a\x00b")
    stages: list[tuple[str, int, int]] = []
    report = ingest(device, [folder], owner_names=["ines  DUARTE"], on_progress=lambda *now: stages.append(now))
    assert counts(report) == (3, 0, 4, 0)
    assert {Path(path).name for path, _ in report.skipped} == {"broken.pdf", "photo.jpg", "llama.txt"}
    assert all(reason and "\n" not in reason for _, reason in report.skipped)
    assert stages[0] == ("documents", 0, 6) and stages[-1] == ("documents", 6, 6) and ("passages", 2, 2) in stages
    by_text = {item.text: item for item in device.memory.items()}
    mine, hers = by_text["in Ghent"], by_text["where do you live?"]
    assert (mine.speaker, hers.speaker, mine.source, mine.kind) == ("", "Ana", "chat", "passage")
    assert (mine.document, mine.position, hers.position) == (hers.document, 1, 0) and mine.said_at == "2025-03-14"
    assert (by_text["Glaze is glass."].speaker, by_text["It stands in the garden."].cue) == ("book.pdf", "Kiln")
    listed = {Path(document.path).name: document for document in Documents(device.vault).listing()}
    assert listed["chat.txt"].id == document_id(mine.document) and listed["chat.txt"].completed
    assert (listed["chat.txt"].chunks, listed["chat.txt"].kind) == (2, "whatsapp chat")


def test_what_was_read_is_not_read_again_and_copies_are_known(device: Device, folder: Path) -> None:
    (folder / "a.md").write_text("# Kiln\nIt stands in the garden.\n")
    assert counts(ingest(device, [folder])) == (1, 0, 1, 0)
    assert counts(ingest(device, [folder / "a.md", folder])) == (0, 1, 0, 0)
    shutil.copy(folder / "a.md", folder / "b.md")
    (folder / "c.md").write_text("# Kiln\nIt stands in the garden.\n# Glaze\nIt is glass.\n")
    assert counts(ingest(device, [folder])) == (1, 2, 1, 1)
    assert texts(device) == ["It stands in the garden.", "It is glass."]


def test_what_people_repeat_in_a_chat_is_kept_and_a_newer_export_adds_only_what_is_new(
    device: Device, folder: Path
) -> None:
    chat = CHAT + "14/03/2025, 09:32 - Ana: ok\n14/03/2025, 09:33 - Ana: ok\n"
    (folder / "old.txt").write_text(chat)
    ingest(device, [folder])
    (folder / "old.txt").rename(folder / "new.txt")
    (folder / "new.txt").write_text(chat + "15/03/2025, 09:32 - Ana: bye\n")
    cue_differs = ingest(device, [folder])  # the name of a chat comes from its file
    assert counts(cue_differs) == (1, 0, 5, 0)
    (folder / "new.txt").write_text(chat + "15/03/2025, 09:32 - Ana: bye\n16/03/2025, 09:32 - Ana: ok\n")
    report = ingest(device, [folder])
    assert counts(report) == (1, 0, 1, 5) and report.forgotten == 0


def test_a_changed_file_loses_what_it_no_longer_says(device: Device, folder: Path) -> None:
    path = folder / "a.md"
    path.write_text("# Kiln\nIt stands in Zebedee's garden.\n# Glaze\nIt is glass.\n# Wax\nIt melts.\n")
    ingest(device, [path])
    glaze = next(item for item in device.memory.items() if item.cue == "Glaze")
    (document,) = Documents(device.vault).listing()
    device.vault.put_blob("personal/adapter", b"learnt")
    path.write_text("# Kiln\nIt stands in the yard.\n# Glaze\nIt is glass.\n")
    report = ingest(device, [path])
    assert counts(report) == (1, 0, 1, 1) and report.forgotten == 2
    assert sorted(texts(device)) == ["It is glass.", "It stands in the yard."]
    assert device.memory.item(glaze.id) == glaze  # kept, not written anew
    (changed,) = Documents(device.vault).listing()
    assert (changed.id, changed.chunks, changed.completed) == (
        document.id,
        2,
        True,
    ) and changed.digest != document.digest
    assert device.vault.blob_names("personal/") == [] and device.memory.recall("Zebedee", rankers=("bm25",)) == []


def test_passages_that_moved_stay_in_the_order_of_the_file(device: Device, folder: Path) -> None:
    path = folder / "a.md"
    path.write_text("# A\none\n# B\ntwo\n")
    ingest(device, [path])
    path.write_text("# New\nzero\n# A\none\n# B\ntwo\n")
    assert ingest(device, [path]).forgotten == 2
    assert [i.text for i in sorted(device.memory.items(), key=lambda item: item.position)] == ["zero", "one", "two"]


def test_forgetting_a_document_spares_what_others_hold_and_what_the_owner_said(device: Device, folder: Path) -> None:
    device.memory.remember("I live in Ghent", said_at="2025-01-01")
    own = {"text": "I live in Ghent", "said_at": "2025-02-02"}
    (folder / "own.jsonl").write_text(json.dumps(own) + "\n" + json.dumps(own | {"text": "I like tea"}))
    (folder / "a.md").write_text("# Kiln\nshared\n# Wax\nonly here\n")
    (folder / "b.md").write_text("# Kiln\nshared\n")
    ingest(device, [folder])
    listed = {Path(document.path).name: document.id for document in Documents(device.vault).listing()}
    receipts = forget_document(device, listed["a.md"][:12])
    assert len(receipts) == 2 and "only here" not in str(receipts)
    forget_document(device, listed["own.jsonl"])
    assert texts(device) == ["I live in Ghent", "shared"]
    assert device.memory.items()[1].document == listed["b.md"]
    assert [Path(document.path).name for document in Documents(device.vault).listing()] == ["b.md"]
    assert ingest(device, [folder / "b.md"]).unchanged == 1
    for beginning in ("", "zz", listed["a.md"]):
        with pytest.raises(PenchantError, match="no document"):
            forget_document(device, beginning)


def test_a_forgotten_passage_stays_forgotten_while_its_file_is_unchanged(device: Device, folder: Path) -> None:
    (folder / "zebedee.md").write_text("# Kiln\nZebedee's kiln\n# Wax\nIt melts.\n")
    ingest(device, [folder])
    first = device.memory.recall("Zebedee", rankers=("bm25",))[0].item
    forget(device, [first.id])
    assert counts(ingest(device, [folder])) == (0, 1, 0, 0) and texts(device) == ["It melts."]


def test_a_document_named_after_what_is_forgotten_loses_its_name(device: Device, folder: Path) -> None:
    (folder / "zebedee.md").write_text("# Kiln\nhot\n# Wax\nIt melts.\n")
    ingest(device, [folder])
    documents, (first, _) = Documents(device.vault), device.memory.items()
    assert documents.forget_traces([first.id], lambda text: "zebedee" in text) == 2
    assert documents.listing()[0].path == "(forgotten name)"
    (folder / "zebedee.md").write_text("# Wax\nIt melts.\n# Glaze\nglass\n")
    assert counts(ingest(device, [folder])) == (1, 0, 2, 0)  # still known as the same file
    assert sorted(texts(device)) == ["It melts.", "glass", "hot"]
    assert documents.forget_all() == 1 and documents.listing() == [] and documents.owner_names() == ()


def test_saying_who_one_is_later_reads_anew_what_that_changes(device: Device, folder: Path) -> None:
    (folder / "chat.txt").write_text(CHAT)
    (folder / "notes.md").write_text("# Kiln\nhot\n")
    ingest(device, [folder])
    assert {item.speaker for item in device.memory.items()} == {"Ana", "Ines Duarte", ""}
    assert counts(ingest(device, [folder], owner_names=["Ines Duarte"])) == (1, 1, 2, 0)
    assert {item.text: item.speaker for item in device.memory.items()}["in Ghent"] == ""
    assert counts(ingest(device, [folder])) == (0, 2, 0, 0)  # the device remembers the name
    assert len(device.memory) == 3


def test_addresses_name_the_owner_too(device: Device, folder: Path) -> None:
    (folder / "a.eml").write_text("From: Ines <Ines@Example.org>\nSubject: x\n\nI am a potter\n")
    (folder / "b.eml").write_text("From: Ana <ana@example.org>\nSubject: x\n\nI am a baker\n")
    ingest(device, [folder], owner_names=["ines@example.org"])
    assert {item.text: item.speaker for item in device.memory.items()} == {"I am a potter": "", "I am a baker": "Ana"}


def test_200_files(device: Device, folder: Path) -> None:
    for number in range(200):
        (folder / f"{number:03}.txt").write_text(f"Note number {number} is about 漢字 and naïve pots.")
    report = ingest(device, [folder])
    assert counts(report) == (200, 0, 200, 0) and len(device.memory) == 200
    assert counts(ingest(device, [folder])) == (0, 200, 0, 0)


class Interrupted(HashingEmbedder):
    """Stops at the third batch, as Ctrl-C would."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if len(self.batches) == 2:
            self.batches.append(0)
            raise KeyboardInterrupt
        return super().embed(texts)


def test_ctrl_c_keeps_whole_batches_and_the_next_run_goes_on(tmp_path: Path, folder: Path) -> None:
    (folder / "a.md").write_text("".join(f"# Heading {number}\nText {number}\n" for number in range(100)))
    embedder = Interrupted()
    with Device.open(tmp_path / "home", create=True, key_method="file", embedder=embedder) as device:
        with pytest.raises(KeyboardInterrupt):
            ingest(device, [folder])
        (document,) = Documents(device.vault).listing()
        assert document.chunks == len(device.memory) == 64 and not document.completed
        assert counts(ingest(device, [folder])) == (1, 0, 36, 0)
        assert sum(embedder.batches) == 100 and len(set(texts(device))) == 100


_CHILD = """
import sys
from pathlib import Path
from edge_runtime.device import Device
from edge_runtime.ingestion.ingest import ingest
from tests.edge_runtime.memory_helpers import HashingEmbedder
with Device.open(Path(sys.argv[1]), create=True, key_method="file", embedder=HashingEmbedder()) as device:
    ingest(device, [Path(sys.argv[2])], on_progress=lambda *now: print(*now, flush=True))
"""


def test_a_kill_is_made_up_for_by_the_next_run(tmp_path: Path, folder: Path) -> None:
    path = folder / "a.md"
    path.write_text("".join(f"# Heading {number}\nText {number}\n" for number in range(2000)))
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(tmp_path / "home"), str(path)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert child.stdout is not None
    while not child.stdout.readline().startswith(b"passages 128 "):
        assert child.poll() is None
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with Device.open(tmp_path / "home", embedder=HashingEmbedder()) as device:
        (document,) = Documents(device.vault).listing()
        stored = len(device.memory)
        assert 128 <= document.chunks == stored < 2000 and not document.completed
        assert counts(ingest(device, [path])) == (1, 0, 2000 - stored, 0)
        assert sorted(texts(device)) == sorted(f"Text {number}" for number in range(2000))


def test_a_change_after_an_interruption_leaves_nothing_of_the_first_version(tmp_path: Path, folder: Path) -> None:
    path = folder / "a.md"
    path.write_text("".join(f"# Heading {number}\nold {number}\n" for number in range(100)))
    with Device.open(tmp_path / "home", create=True, key_method="file", embedder=Interrupted()) as device:
        with pytest.raises(KeyboardInterrupt):
            ingest(device, [path])
        path.write_text("# Heading 0\nold 0\n# Heading 1\nnew\n")
        assert ingest(device, [path]).forgotten == 63
        assert sorted(texts(device)) == ["new", "old 0"]


def test_documents_work_on_a_device_without_memories(device: Device) -> None:
    documents = Documents(device.vault)
    documents.remove("none")
    assert documents.listing() == [] and documents.stale_memories() == {} and documents.forget_all() == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_file_stops_the_others(device: Device, folder: Path, data: st.DataObject) -> None:
    """Whatever stands in a file, it is read or gets one line."""
    name, sample = data.draw(st.sampled_from(SAMPLES))
    cut, rubbish = data.draw(st.integers(0, len(sample))), data.draw(st.binary(max_size=30))
    (folder / name).write_bytes(sample[:cut] + rubbish + sample[cut + data.draw(st.integers(0, 20)) :])
    report = ingest(device, [folder / name])
    assert report.documents + report.unchanged + len(report.skipped) == 1
    assert all("\n" not in reason for _, reason in report.skipped)
