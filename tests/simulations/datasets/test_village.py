"""The bundled village: enough people, split in time, facts that their evidence supports, voices apart."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.errors import PenchantError
from simulations.datasets.village import load_village, read_person
from simulations.people import Choice, Message, Person, split_in_time

VILLAGE = load_village()
FOLDER = Path(__file__).parents[3] / "simulations" / "village" / "people"


def ids(person: Person) -> str:
    return person.id


def test_enough_people_in_a_fixed_order() -> None:
    fleet = [person for person in VILLAGE if person.role == "fleet"]
    newcomers = [person for person in VILLAGE if person.role == "newcomer"]
    assert len(fleet) >= 24
    assert len(newcomers) >= 6
    assert [*sorted(fleet, key=ids), *sorted(newcomers, key=ids)] == VILLAGE
    assert len({person.id for person in VILLAGE}) == len({person.name for person in VILLAGE}) == len(VILLAGE)


@pytest.mark.parametrize("person", VILLAGE, ids=ids)
def test_enough_rows_split_in_time(person: Person) -> None:
    messages = person.train_messages + person.test_messages
    choices = person.train_choices + person.test_choices
    assert len(messages) >= 30
    assert len(choices) >= 12
    assert len(person.facts) >= 6
    assert len(person.train_messages) == int(0.75 * len(messages))
    assert len(person.train_choices) == int(0.75 * len(choices))
    assert max(row.date for row in person.train_messages) < min(row.date for row in person.test_messages)
    assert max(row.date for row in person.train_choices) < min(row.date for row in person.test_choices)
    assert max(row.date for row in person.train_messages) < min(fact.date for fact in person.facts)


@pytest.mark.parametrize("person", VILLAGE, ids=ids)
def test_no_held_out_text_stands_in_the_training_part(person: Person) -> None:
    known = {row.text for row in person.train_messages}
    assert not known & {row.text for row in person.test_messages}
    prompts = {row.prompt for row in person.train_choices}
    answers = {text for row in person.train_choices for text in (row.chosen, row.rejected)}
    for choice in person.test_choices:
        assert choice.prompt not in prompts
        assert not {choice.chosen, choice.rejected} & answers
    for choice in person.train_choices + person.test_choices:
        assert choice.chosen != choice.rejected


def test_nobody_repeats_another() -> None:
    texts = Counter(
        text
        for person in VILLAGE
        for text in [
            *(row.text for row in person.train_messages + person.test_messages),
            *(row.chosen for row in person.train_choices + person.test_choices),
        ]
    )
    assert max(texts.values()) == 1


def names_and_numbers(answer: str) -> list[str]:
    """Capitalised words and numbers of an answer, without the "You" or "Your" that it opens with."""
    words = re.findall(r"[^\W\d_][\w'’-]*|\d[\d.,:/]*", answer)
    marked = [word for word in words if word[0].isdigit() or word[0].isupper()]
    return [word.rstrip(".,:/").removesuffix("'s").lower() for word in marked if word not in ("You", "Your")]


@pytest.mark.parametrize("person", VILLAGE, ids=ids)
def test_evidence_holds_every_name_and_number_of_an_answer(person: Person) -> None:
    for fact in person.facts:
        assert fact.evidence
        rows = [person.train_messages[index] for index in fact.evidence]
        evidence = " ".join(f"{row.cue} {row.text}" for row in rows).lower()
        told = fact.question.lower()  # what the question says, the answer may repeat
        missing = [word for word in names_and_numbers(fact.answer) if word not in evidence and word not in told]
        assert not missing, (fact.question, missing)


def test_an_answer_is_not_in_its_question() -> None:
    """Some word of the answer is news: of the evidence, and not of the question."""
    for person in VILLAGE:
        for fact in person.facts:
            asked = set(re.findall(r"\w+", fact.question.lower()))
            news = {word for word in re.findall(r"\w+", fact.answer.lower()) if word not in asked}
            evidence = " ".join(person.train_messages[index].text for index in fact.evidence).lower()
            news -= {"your", "you", "is", "was", "are", "were", "the", "a", "an", "of", "in", "and", "called"}
            assert any(word in evidence for word in news), (person.id, fact.question)


def without_rare_words(people: list[Person], owners: int = 4) -> list[Person]:
    """The same people with every word that fewer than `owners` of them use in training replaced by "_".

    No name of a friend, a pet or a place is left, only how the person writes.
    """
    users: Counter[str] = Counter()
    for person in people:
        text = " ".join(row.text for row in person.train_messages).lower()
        users.update(set(re.findall(r"\w+", text)))

    def mask(rows: tuple[Message, ...]) -> tuple[Message, ...]:
        return tuple(
            replace(
                row,
                text=re.sub(r"\w+", lambda w: w[0] if users[w[0].lower()] >= owners else "_", row.text),
            )
            for row in rows
        )

    return [
        replace(person, train_messages=mask(person.train_messages), test_messages=mask(person.test_messages))
        for person in people
    ]


def profile(text: str) -> dict[str, float]:
    """Log counts of character 2- to 4-grams, case and punctuation kept."""
    padded = f" {text} "
    grams = Counter(padded[i : i + n] for n in (2, 3, 4) for i in range(len(padded) - n + 1))
    return {gram: math.log1p(count) for gram, count in grams.items()}


def author_accuracy(people: list[Person]) -> float:
    """Share of held-out messages whose nearest centroid (tf-idf character n-grams) is their author's."""
    seen: Counter[str] = Counter()
    centroids = []
    for person in people:
        centroid: dict[str, float] = {}
        for row in person.train_messages:
            grams = profile(row.text)
            seen.update(grams.keys())
            for gram, weight in grams.items():
                centroid[gram] = centroid.get(gram, 0.0) + weight
        centroids.append(centroid)
    total = sum(len(person.train_messages) for person in people)
    rarity = {gram: math.log(total / count) for gram, count in seen.items()}
    weighted = []
    for centroid in centroids:
        vector = {gram: weight * rarity[gram] for gram, weight in centroid.items()}
        norm = math.sqrt(sum(value * value for value in vector.values()))
        weighted.append({gram: value / norm for gram, value in vector.items()})
    right = rows = 0
    for index, person in enumerate(people):
        for row in person.test_messages:
            grams = {gram: weight * rarity[gram] for gram, weight in profile(row.text).items() if gram in rarity}
            scores = [sum(value * centroid.get(gram, 0.0) for gram, value in grams.items()) for centroid in weighted]
            right += scores.index(max(scores)) == index
            rows += 1
    return right / rows


def test_voices_are_distinct() -> None:
    """Chance is 3 %. Names give people away; the way of writing must do so without them."""
    accuracy = author_accuracy(VILLAGE)
    assert accuracy > 0.60, f"the author of {accuracy:.1%} of the held-out messages was recognised"
    accuracy = author_accuracy(without_rare_words(VILLAGE))
    assert accuracy > 0.60, f"without names, the author of {accuracy:.1%} was recognised"


def test_the_voice_test_can_fail() -> None:
    """People whose held-out messages are another's are not recognised."""
    shifted = [
        replace(person, test_messages=other.test_messages)
        for person, other in zip(VILLAGE, VILLAGE[1:] + VILLAGE[:1], strict=True)
        if person.train_messages[-1].date < other.test_messages[0].date
    ]
    assert author_accuracy(shifted) < 0.10


# What the loader refuses


def person_file() -> dict[str, object]:
    loaded: dict[str, object] = json.loads((FOLDER / "bea.json").read_text(encoding="utf-8"))
    return loaded


def test_a_bad_field_is_named_and_its_text_is_not() -> None:
    content = person_file()
    content["messages"][3]["text"] = ["secret words"]  # type: ignore[index]
    with pytest.raises(PenchantError, match=r"bea\.json: messages\.3\.text") as caught:
        read_person(json.dumps(content), "bea.json")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("role",), "mayor", r"role"),
        (("nickname",), "B", r"nickname"),
        (("id",), "beatrice", r"id"),
        (("messages", 2, "date"), "2025-13-01", r"messages\.2: .*YYYY-MM-DD"),
        (("messages", 2, "date"), "2030-01-01", r"messages: not in date order"),
        (("messages", 2, "cue"), " ", r"messages\.2\.cue"),
        (("choices", 0, "date"), 20250101, r"choices\.0\.date"),
        (("facts", 0, "evidence"), [27], r"facts: .*outside the training messages"),
        (("facts", 0, "evidence"), [], r"facts\.0\.evidence"),
        (("facts", 0, "date"), "2025-01-01", r"facts: .*before its evidence"),
    ],
)
def test_strict_reading(path: tuple[str | int, ...], value: object, complaint: str) -> None:
    content = person_file()
    spot: object = content
    for step in path[:-1]:
        spot = spot[step]  # type: ignore[index]
    spot[path[-1]] = value  # type: ignore[index]
    with pytest.raises(PenchantError, match=rf"bea\.json: {complaint}"):
        read_person(json.dumps(content), "bea.json")


def test_broken_json_and_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "bea.json").write_text('{"id": "bea",')
    with pytest.raises(PenchantError, match=r"bea\.json: not JSON, line 1"):
        load_village(tmp_path)
    (tmp_path / "bea.json").unlink()
    with pytest.raises(PenchantError, match="no people"):
        load_village(tmp_path)


# Splitting in time


def message(day: int, text: str = "x") -> Message:
    return Message(date=f"2025-03-{day:02d}", cue="", text=text)


def test_split_takes_the_oldest_whatever_the_order() -> None:
    train, test = split_in_time([message(day) for day in (4, 1, 3, 2)], 0.75)
    assert [row.date[-2:] for row in train] == ["01", "02", "03"]
    assert [row.date[-2:] for row in test] == ["04"]


def test_a_day_is_never_split() -> None:
    train, test = split_in_time([message(day) for day in (1, 2, 3, 3)], 0.75)
    assert [row.date[-2:] for row in train] == ["01", "02"]
    assert len(test) == 2


def test_splits_that_cannot_be_made() -> None:
    with pytest.raises(PenchantError, match="too few"):
        split_in_time([message(1), message(1)], 0.5)
    with pytest.raises(PenchantError, match="too few"):
        split_in_time([], 0.5)
    with pytest.raises(PenchantError, match="between 0 and 1"):
        split_in_time([message(1), message(2)], 1.0)


def test_a_person_cannot_be_trained_on_their_future() -> None:
    choice = Choice(date="2025-03-01", prompt="p", chosen="a", rejected="b")

    def person(train: tuple[Message, ...], test: tuple[Message, ...]) -> Person:
        return Person("p", "P", "", "fleet", train, test, (), (choice,), ())

    assert person((message(1),), (message(2),)).id == "p"
    for train, test in [((message(2),), (message(1),)), ((message(2),), (message(2),))]:
        with pytest.raises(PenchantError, match="held-out"):
            person(train, test)
    with pytest.raises(PenchantError, match="date order"):
        person((message(2), message(1)), (message(3),))
    with pytest.raises(PenchantError, match="YYYY-MM-DD"):
        Message(date="20250301", cue="", text="")
