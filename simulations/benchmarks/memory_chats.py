"""Questions about long chats: LoCoMo, and REALTALK, whose chats have the same shape with other names.

A person is one of the two speakers of a chat. Their history is what they said, after what the other said before it;
they are asked the questions whose evidence is theirs alone. The gold is the answer in words (nats per token), and how
much of the evidence is among what memory recalls is a measure of its own. Unanswerable questions are left out.

LoCoMo (Maharana et al. 2024, CC BY-NC 4.0): read by `simulations.datasets.locomo`, from whose files only the answers
are added here. REALTALK (Lee et al., "REALTALK: a 21-day real-world dataset for long-term conversation", 2025; no
licence file): `Chat_*.json` with `name.speaker_1`, `name.speaker_2`, `session_N` lists of `clean_text`, `speaker`,
`date_time` ("29.12.2023, 22:00:05"), `dia_id`, and `qa` with `question`, `answer`, `evidence` (turn ids), `category`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from protocol.errors import PenchantError
from simulations.benchmarks.form import Benchmark, FileRow, Number, Query, Task, cut, history_of, read_json, shortened
from simulations.datasets.locomo import Chat, ChatQuestion, ChatTurn, load_chats

QUESTIONS: Final = 15  # of one person
UNANSWERABLE: Final = 5  # LoCoMo's category of questions that twist the chat
REALTALK_TUNING: Final = 2  # chats
_SESSION: Final = re.compile(r"session_(\d+)")
_TURN: Final = re.compile(r"D\d+:\d+")


class _Question(FileRow):
    question: str
    answer: Number = ""
    evidence: list[str] = Field(default_factory=list)
    category: int


class _Questions(FileRow):
    qa: list[_Question]


class _Names(FileRow):
    speaker_1: str
    speaker_2: str


class _Turn(FileRow):
    dia_id: str
    speaker: str
    clean_text: str
    date_time: str


class _RealTalk(_Questions):
    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)

    name: _Names


def locomo(folder: Path, people: int) -> Benchmark:
    """Speakers of the chats that nothing was tuned on, ``people`` at most; ``folder`` holds ``locomo/``."""
    where, parts = folder / "locomo", {}
    for part in ("report", "tuning"):
        chats = load_chats(where, part)
        parts[part] = _speakers(chats, _answers(where, chats))
    tasks, _ = cut("locomo", parts["report"], min(people, len(parts["report"])), 0)
    return Benchmark("locomo", "question", "nats", tasks, tuple(parts["tuning"]))


def _answers(folder: Path, chats: Sequence[Chat]) -> dict[tuple[str, str], str]:
    """(chat, question) -> its answer."""
    return {
        (chat.name, row.question): row.answer
        for chat in chats
        for row in read_json(folder / f"{chat.name}.json", _Questions, "LoCoMo").qa
    }


def realtalk(folder: Path, people: int) -> Benchmark:
    """Speakers of REALTALK's chats; ``folder`` holds ``realtalk/``, whose first two chats by name are for tuning."""
    files = sorted((folder / "realtalk").glob("Chat_*.json"))
    if not files:
        raise PenchantError(f"there are no REALTALK chats (realtalk/Chat_*.json) in {folder}")
    chats: list[Chat] = []
    answers: dict[tuple[str, str], str] = {}
    for file in files:
        record = read_json(file, _RealTalk, "REALTALK")
        chats.append(_realtalk_chat(file, record))
        answers |= {(file.stem, row.question): row.answer for row in record.qa}
    tuning = _speakers(chats[:REALTALK_TUNING], answers) if len(chats) > REALTALK_TUNING else []
    reported = _speakers(chats[REALTALK_TUNING:] if tuning else chats, answers)
    tasks, _ = cut("realtalk", reported, min(people, len(reported)), 0)
    return Benchmark("realtalk", "question", "nats", tasks, tuple(tuning))


def _realtalk_chat(file: Path, record: _RealTalk) -> Chat:
    sessions = {int(found[1]): key for key in record.model_extra or {} if (found := _SESSION.fullmatch(key))}
    turns = []
    for number, key in sorted(sessions.items()):
        rows = _session((record.model_extra or {})[key], f"{file.name} {key}")
        turns += [
            ChatTurn(row.dia_id, row.speaker, row.clean_text, number, place, _day(row.date_time, file.name, key, place))
            for place, row in enumerate(rows)
        ]
    known = {turn.id for turn in turns}
    questions = [
        ChatQuestion(row.question, frozenset(_TURN.findall(" ".join(row.evidence))) & known, row.category)
        for row in record.qa
    ]
    return Chat(file.stem, tuple(turns), tuple(one for one in questions if one.evidence))


def _session(rows: Any, where: str) -> list[_Turn]:
    """The turns of one session; PenchantError with the place otherwise."""
    try:
        return TypeAdapter(list[_Turn]).validate_python(rows)
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise PenchantError(f"{where} is not of REALTALK's form: see {place or 'the session'}") from None


def _day(text: str, file: str, session: str, place: int) -> str:
    try:
        return datetime.strptime(text.split(",")[0].strip(), "%d.%m.%Y").date().isoformat()
    except ValueError:
        raise PenchantError(
            f"{file} {session} is not of REALTALK's form: see {place}.date_time (dd.mm.yyyy, hh:mm:ss)"
        ) from None


def _speakers(chats: Sequence[Chat], answers: Mapping[tuple[str, str], str]) -> list[Task]:
    """One task per speaker who is asked anything: the first speakers of all chats, then the second ones, so that a
    person's neighbours come from other chats."""
    pairs = [[speaker for speaker in dict.fromkeys(turn.speaker for turn in chat.turns)][:2] for chat in chats]
    made = [
        _speaker(chat, pair[second], answers)
        for second in (0, 1)
        for chat, pair in zip(chats, pairs, strict=True)
        if len(pair) == 2
    ]
    return [task for task in made if task is not None]


def _speaker(chat: Chat, speaker: str, answers: Mapping[tuple[str, str], str]) -> Task | None:
    rows: list[tuple[str, str, str]] = []
    places: dict[str, int] = {}
    for place, turn in enumerate(chat.turns):
        if turn.speaker != speaker or not turn.text.strip():
            continue
        before = chat.turns[place - 1] if place else None
        heard = before.text if before and before.session == turn.session and before.speaker != speaker else ""
        places[turn.id] = len(rows)
        rows.append((turn.said_at, shortened(heard), turn.text))
    queries = [
        Query(one.text, answers[chat.name, one.text], (), frozenset(places[turn] for turn in one.evidence))
        for one in chat.questions
        if one.category != UNANSWERABLE
        and one.evidence <= places.keys()
        and answers.get((chat.name, one.text), "").strip()
    ]
    if not queries:
        return None
    return Task(f"{chat.name}-{speaker}", history_of(rows), tuple(_spread(queries, QUESTIONS)))


def _spread(queries: Sequence[Query], most: int) -> list[Query]:
    """At most ``most`` of them, evenly over the file, which goes by category and time."""
    if len(queries) <= most:
        return list(queries)
    return [queries[place * len(queries) // most] for place in range(most)]
