"""Chats: who said what when, in every format; nothing of assistants, bots and the app."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_runtime.ingestion.chats import read_chatgpt, read_telegram, read_whatsapp
from edge_runtime.ingestion.json_lines import read_json_lines
from edge_runtime.ingestion.sections import Section
from protocol.errors import PenchantError


def whatsapp(tmp_path: Path, text: str, name: str = "WhatsApp Chat with Ana.txt") -> list[Section]:
    (tmp_path / name).write_text(text, "utf-8")
    return list(read_whatsapp(tmp_path / name))


@pytest.mark.parametrize(
    ("stamps", "days"),
    [
        (("14/03/2025, 09:30 - ", "15/03/2025, 10:00 - "), ("2025-03-14", "2025-03-15")),
        (("3/14/25, 9:30 AM - ", "3/15/25, 10:00 PM - "), ("2025-03-14", "2025-03-15")),
        (("3/4/25, 9:30\u202fAM - ", "3/5/25, 10:00\u202fPM - "), ("2025-03-04", "2025-03-05")),
        (("[14.03.25, 09:30:15] ", "\u200e[15.03.25, 10:00:00] "), ("2025-03-14", "2025-03-15")),
        (("2025-03-04, 09:30 - ", "2025-03-05, 10:00 - "), ("2025-03-04", "2025-03-05")),
        (("1/12/2024, 09:30 - ", "2/1/2025, 10:00 - "), ("2024-12-01", "2025-01-02")),
        (("5/2/2025, 09:30 - ", "6/1/2025, 10:00 - "), ("2025-05-02", "2025-06-01")),
        (("4/3/2025, 9:30 am - ", "5/3/2025, 10:00 am - "), ("2025-03-04", "2025-03-05")),
    ],
    ids=[
        "day first",
        "month first",
        "american",
        "iphone",
        "iso",
        "order decides day",
        "order decides month",
        "unclear",
    ],
)
def test_whatsapp_dates(tmp_path: Path, stamps: tuple[str, str], days: tuple[str, str]) -> None:
    found = whatsapp(tmp_path, f"{stamps[0]}Ana: hello\n{stamps[1]}Bo: hi\n")
    assert [(section.said_at, section.speaker, section.text) for section in found] == [
        (days[0], "Ana", "hello"),
        (days[1], "Bo", "hi"),
    ]


def test_whatsapp_turns_without_what_the_app_wrote(tmp_path: Path) -> None:
    lines = [
        "14/03/2025, 09:30 - Messages and calls are end-to-end encrypted.",
        "14/03/2025, 09:31 - Ana: first line",
        "second line: with colon",
        "14/03/2025, 09:32 - Ana: <Media omitted>",
        "14/03/2025, 09:33 - ~ Bo: \u200eimage omitted",
        "14/03/2025, 09:34 - Ana: This message was deleted",
        "14/03/2025, 09:35 - Meta AI: I am a model",
        "14/03/2025, 09:36 - Ana: 🙂",
        "14/03/2025, 09:37 - ~ Bo: ok <This message was edited>",
    ]
    found = whatsapp(tmp_path, "\n".join(lines))
    assert [(s.speaker, s.text) for s in found] == [("Ana", "first line\nsecond line: with colon"), ("Bo", "ok")]
    assert {section.cue for section in found} == {"Ana"} and {section.source for section in found} == {"chat"}


def test_whatsapp_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PenchantError, match="no line begins with a date"):
        whatsapp(tmp_path, "hello\n")
    with pytest.raises(PenchantError, match="dates of the chat cannot be read"):
        whatsapp(tmp_path, "44/44/2025, 09:30 - Ana: hello\n")


def exported(tmp_path: Path, value: object) -> Path:
    (tmp_path / "x.json").write_text(json.dumps(value), "utf-8")
    return tmp_path / "x.json"


def said(who: str, text: object, **more: object) -> dict[str, object]:
    return {"type": "message", "date": "2025-03-14T09:30:00", "from": who, "from_id": f"user{who}", "text": text} | more


def test_telegram_one_chat(tmp_path: Path) -> None:
    link = ["see ", {"type": "link", "text": "example.org"}]
    service = {"type": "service", "date": "2025-03-14T09:30:00", "text": "Ana joined"}
    chat = {"name": "Ana", "type": "personal_chat", "messages": [said("Ana", link), service, said("Bo", "", photo="x")]}
    (section,) = read_telegram(exported(tmp_path, chat))
    assert (section.text, section.speaker, section.cue) == ("see example.org", "Ana", "Ana")
    assert section.said_at == "2025-03-14"


def test_telegram_full_export_knows_its_owner_and_leaves_bots_out(tmp_path: Path) -> None:
    chats = [
        {"name": "Ana", "type": "personal_chat", "id": 1, "messages": [
            said("7", "mine"), said("7", "hers", forwarded_from="Cleo"), said("8", "model says", via_bot="@gpt")]},
        {"name": "Helper", "type": "bot_chat", "id": 9, "messages": [said("9", "bot says"), said("7", "asked")]},
    ]  # fmt: skip
    found = list(read_telegram(exported(tmp_path, {"personal_information": {"user_id": 7}, "chats": {"list": chats}})))
    assert [(s.text, s.speaker) for s in found] == [("mine", ""), ("hers", "Cleo"), ("asked", "")]
    assert found[0].part == found[1].part != found[2].part


def node(parent: str | None, role: str, *parts: object, **more: object) -> dict[str, object]:
    content = {"content_type": "text", "parts": list(parts)}
    return {
        "parent": parent,
        "message": {"author": {"role": role}, "content": content, "create_time": 1741944600.5} | more,
    }


def test_chatgpt_gives_only_what_the_owner_wrote_in_the_kept_branch(tmp_path: Path) -> None:
    mapping = {
        "root": {"parent": None, "message": None},
        "a": node("root", "user", "I live in Ghent"),
        "b": node("a", "assistant", "Ghent has a castle"),
        "dropped": node("b", "user", "a draft that was edited"),
        "c": node("b", "user", "and I am a potter", {"asset": "image"}),
        "d": node("c", "user", "hidden", metadata={"is_visually_hidden_from_conversation": True}),
        "e": node("d", "system", "be kind"),
    }
    conversations = [{"title": "Castles of Ghent", "id": "1", "mapping": mapping, "current_node": "e"}]
    found = list(read_chatgpt(exported(tmp_path, conversations)))
    assert [(s.text, s.speaker, s.said_at, s.cue) for s in found] == [
        ("I live in Ghent", "", "2025-03-14", ""),
        ("and I am a potter", "", "2025-03-14", ""),
    ]


@pytest.mark.parametrize("value", [{"a": 1}, [1], [{"mapping": {"a": 3, "b": {"message": []}}}], [{"mapping": []}]])
def test_chatgpt_of_another_shape_gives_nothing_or_one_line(tmp_path: Path, value: object) -> None:
    try:
        assert list(read_chatgpt(exported(tmp_path, value))) == []
    except PenchantError as error:
        assert "\n" not in str(error)


def lines(tmp_path: Path, *objects: object) -> list[Section]:
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, objects)) + "\n", "utf-8")
    return list(read_json_lines(path))


def test_json_lines_of_any_chat(tmp_path: Path) -> None:
    found = lines(
        tmp_path,
        {"date": "2025-03-14T09:30:00Z", "author": "Ana", "text": "one"},
        {"ts": "1741944600.000200", "user": "U1", "text": "slack"},
        {"timestamp": 1741944600000, "sender": "Bo", "body": "signal"},
        {"date": "2025-03-14", "role": "user", "content": "mine"},
        {"date": "2025-03-14", "role": "assistant", "content": "a model's"},
        {"date": "2025-03-14", "author": "", "text": "nobody's"},
    )
    assert [(s.text, s.speaker) for s in found] == [
        ("one", "Ana"), ("slack", "U1"), ("signal", "Bo"), ("mine", ""), ("nobody's", "unknown")]  # fmt: skip
    assert {section.said_at for section in found} == {"2025-03-14"}


def test_penchants_own_lines_stay_statements_but_for_what_a_model_said(tmp_path: Path) -> None:
    own = {"text": "I live in Ghent", "cue": "home?", "said_at": "2025-03-14", "source": "me"}
    found = lines(tmp_path, own, own | {"source": "assistant"}, own | {"kind": "passage", "speaker": "Ana"})
    assert [(s.kind, s.speaker, s.cue) for s in found] == [("statement", "", "home?"), ("passage", "Ana", "home?")]


@pytest.mark.parametrize(
    ("text", "line"), [('{"a": 1}', 1), ('{"author": "A", "text": "x"}\n{"tex', 2), ("[]\n3", None)]
)
def test_wrong_lines_are_named(tmp_path: Path, text: str, line: int | None) -> None:
    (tmp_path / "x.jsonl").write_text(text, "utf-8")
    with pytest.raises(PenchantError, match=f"line {line}" if line else "not valid JSON"):
        list(read_json_lines(tmp_path / "x.jsonl"))
