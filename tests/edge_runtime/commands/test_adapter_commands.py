"""`penchant draft` and `penchant adapters`: what they show, what they change, and that the live adapter speaks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from edge_runtime import device as device_module
from edge_runtime.adapters.log import AdapterLog
from edge_runtime.commands import models as model_commands
from edge_runtime.device import Device
from edge_runtime.models.catalogue import describe_model
from tests.edge_runtime.adapters.test_log import tiny_adapter
from tests.edge_runtime.commands.test_app import NamedEngine, fails_with, run, run_json
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import adapter_bytes, open_tiny, random_factors
from tests.tiny_model import write_tiny_model


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own with a key file and no key store; texts are embedded without a model."""
    home = tmp_path / "home"
    monkeypatch.setenv("PENCHANT_HOME", str(home))
    monkeypatch.delenv("PENCHANT_PASSPHRASE", raising=False)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    monkeypatch.setattr(device_module, "_default_embedder", HashingEmbedder)
    return home


@pytest.fixture
def spoken_to(monkeypatch: pytest.MonkeyPatch) -> NamedEngine:
    """The engine that every command gets; it keeps the last prompt."""
    recording = NamedEngine()

    @contextmanager
    def engine(model: str, threads: int | None, device: Device, task: str = "answers") -> Iterator[NamedEngine]:
        yield recording

    monkeypatch.setattr(model_commands, "_opened_engine", engine)
    return recording


def install(home: Path, *numbers: int) -> None:
    with Device.open(home) as device:
        for number in numbers:
            AdapterLog(device.vault).install(tiny_adapter(number), note=f"adapter {number}")


# ---- draft


def test_draft_shows_the_text_and_the_messages_it_follows(spoken_to: NamedEngine) -> None:
    run("remember", "The kiln is cold again, love", "--date", "2025-03-14", "--cue", "Tell Ines about the kiln")
    shown = run("draft", "Tell Ines that the kiln shelf broke").stdout
    assert shown.startswith("Your dog is Bruno.") and "after [1] 2025-03-14  The kiln is cold again, love" in shown
    assert "<user> Tell Ines about the kiln\n<assistant> The kiln is cold again, love" in spoken_to.prompt
    assert spoken_to.prompt.endswith("<user> Tell Ines that the kiln shelf broke")


def test_draft_as_json_and_without_memories(spoken_to: NamedEngine) -> None:
    run("remember", "The kiln is cold again, love", "--cue", "Tell Ines about the kiln")
    answer = run_json("draft", "Tell Ines that the kiln shelf broke", "--max-tokens", "17")
    assert answer["request"] == "Tell Ines that the kiln shelf broke" and answer["draft"] == "Your dog is Bruno."
    assert [source["id"] for source in answer["sources"]] == [1] and spoken_to.max_tokens == 17
    assert run_json("draft", "Tell Ines that the kiln shelf broke", "-k", "0")["sources"] == []
    assert "cold again" not in spoken_to.prompt


def test_a_draft_is_not_remembered(spoken_to: NamedEngine) -> None:
    run("draft", "Tell Ines that the kiln shelf broke")
    assert run_json("recall")["memories"] == []


def test_an_empty_request_is_one_line_and_makes_no_device(own_home: Path, spoken_to: NamedEngine) -> None:
    fails_with("request is empty", "draft", "  ")
    assert not own_home.exists()


# ---- adapters


def test_a_device_without_adapters_says_so() -> None:
    run("remember", "I play the cello")
    assert "no adapter yet" in run("adapters").stdout and run_json("adapters") == {"adapters": []}


def test_adapters_lists_rolls_back_and_switches_off(own_home: Path) -> None:
    run("remember", "I play the cello")
    install(own_home, 0, 1)

    def live() -> list[bool]:
        return [row["live"] for row in run_json("adapters")["adapters"]]

    assert live() == [False, True]
    shown = run("adapters").stdout
    assert "adapter 0" in shown and "adapter 1" in shown and "live" in shown and "kept" in shown
    assert sha256(tiny_adapter(1)).hexdigest()[:12] in shown and "2.50" in shown
    assert run_json("adapters", "--use", "1")["adapters"][0]["live"] and live() == [True, False]
    assert not any(row["live"] for row in run_json("adapters", "--off")["adapters"]) and live() == [False, False]
    assert len(run_json("adapters")["adapters"]) == 2


def test_an_adapter_without_a_guarantee_shows_no_number(own_home: Path) -> None:
    run("remember", "I play the cello")
    with Device.open(own_home) as device:
        AdapterLog(device.vault).install(tiny_adapter(0, epsilon=None), note="own texts")
    assert run_json("adapters")["adapters"][0]["epsilon"] is None
    assert "none" in run("adapters").stdout


def test_a_forgotten_adapter_stays_in_the_list_as_forgotten(own_home: Path) -> None:
    run("remember", "I play the cello")
    install(own_home, 0)
    assert run_json("forget", "1")["receipts"][0]["removed"]["learnt"] == 1
    shown = run("adapters").stdout
    assert "forgotten" in shown and "kept" not in shown
    assert run_json("adapters")["adapters"][0]["held"] is False
    fails_with("no adapter 1", "adapters", "--use", "1")


def test_bad_input_is_one_line_and_exit_code_2(own_home: Path) -> None:
    fails_with("No device", "adapters")
    assert not own_home.exists()
    run("remember", "I play the cello")
    install(own_home, 0)
    fails_with("either --use ID or --off", "adapters", "--use", "1", "--off")
    fails_with("no adapter 9", "adapters", "--use", "9")
    assert run_json("adapters")["adapters"][0]["live"]


# ---- both


def test_the_live_adapter_speaks_and_off_gives_the_model_back(own_home: Path, tmp_path: Path) -> None:
    """On the tiny model itself: what `draft` says depends on the live adapter, and only on it."""
    run("remember", "I play the cello")
    with open_tiny(tmp_path) as engine:
        path = engine.model.path
        with Device.open(own_home) as device:
            for seed in (0, 1):
                data = adapter_bytes(engine, random_factors(seed, size=1.0), alpha=4.0)
                AdapterLog(device.vault).install(data, note=f"adapter {seed}")

    def said() -> str:
        arguments = ("draft", "Hello", "-k", "0", "--model", str(path), "--threads", "1", "--max-tokens", "16")
        return str(run_json(*arguments)["draft"])

    second = said()
    run("adapters", "--use", "1")
    first = said()
    run("adapters", "--off")
    plain = said()
    assert len({plain, first, second}) == 3
    run("adapters", "--use", "2")
    assert said() == second


def test_an_adapter_that_serves_drafts_leaves_answers_alone(own_home: Path, tmp_path: Path) -> None:
    run("remember", "I play the cello")
    with open_tiny(tmp_path) as engine:
        path = engine.model.path
        data = adapter_bytes(engine, random_factors(0, size=1.0), alpha=4.0)

    def said(command: str) -> Any:
        arguments = ("Hello", "-k", "0", "--model", str(path), "--threads", "1", "--max-tokens", "8")
        answered = run_json(command, *arguments)
        return answered["draft"] if command == "draft" else answered["audit"]["adapters"]

    plain = said("draft")
    with Device.open(own_home) as device:
        AdapterLog(device.vault).install(data, note="", serves=["drafts"])
    assert said("ask") == [] and said("draft") != plain and "drafts" in run("adapters").stdout
    with Device.open(own_home) as device:
        AdapterLog(device.vault).install(data, note="", serves=["answers"])
    assert [one["sha256"] for one in said("ask")] == [sha256(data).hexdigest()] and said("draft") == plain


def test_an_adapter_for_another_model_is_one_line(own_home: Path, tmp_path: Path) -> None:
    run("remember", "I play the cello")
    install(own_home, 0)
    path = describe_model(write_tiny_model(tmp_path / "tiny.gguf", 3)).path
    result = run("draft", "Hello", "--model", str(path), "--threads", "1", code=2)
    assert "another base model" in result.stderr and result.stdout == ""


def test_help_has_an_example() -> None:
    for command in ("draft", "adapters"):
        shown = run(command, "--help").stdout
        assert "--json" in shown and "--home" in shown and "Example" in shown and f"penchant {command}" in shown
