"""A few invented people, small enough to know every row of, for the tests of homes and arms."""

from __future__ import annotations

from simulations.people import Choice, Fact, Message, Person, Role

TOPICS = {"ada": "kiln", "ben": "violin", "cleo": "ferry", "dora": "orchard", "emil": "glacier"}


def invented_person(name: str, role: Role = "fleet") -> Person:
    """Three messages and two choices before the split, two and two after it, one fact; all about one topic."""
    topic = TOPICS[name]
    train = tuple(
        Message(f"2025-01-{day:02d}", f"Write note {day} about the {topic}", f"{name} wrote {day}: the {topic} again")
        for day in (1, 2, 3)
    )
    test = tuple(
        Message(f"2025-02-{day:02d}", f"Write note {day} about the {topic}", f"{name} wrote later {day}: {topic} done")
        for day in (1, 2)
    )
    fact = Fact("2025-02-03", f"What did {name} write about the {topic}?", f"that the {topic} came again", (0,))
    choices = [
        Choice(f"2025-0{month}-0{day}", f"Question {month}{day}?", f"{name} likes {day}", f"{name} dislikes {day}")
        for month in (1, 2)
        for day in (1, 2)
    ]
    return Person(name, name.title(), "", role, train, test, (fact,), tuple(choices[:2]), tuple(choices[2:]))


def invented_people(fleet: int = 3, newcomers: int = 1) -> list[Person]:
    """The first of the invented people: fleet members, then newcomers."""
    names = list(TOPICS)[: fleet + newcomers]
    return [invented_person(name, "fleet" if place < fleet else "newcomer") for place, name in enumerate(names)]
