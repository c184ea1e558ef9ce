from __future__ import annotations

import itertools

import pytest

from edge_runtime.memory.claims import claims_of
from edge_runtime.profile.evidence import FRESH, Episode, Evidence, Observation, episodes_of, observed, probability


def _observations(*dated: tuple[str, str]) -> list[Observation]:
    return [
        observation
        for number, (day, text) in enumerate(dated, 1)
        for claim in claims_of(text)
        for observation in observed(claim, day, number)
    ]


def _spans(*dated: tuple[str, str]) -> list[tuple[str, str, str | None, str | None]]:
    episodes = episodes_of(_observations(*dated))
    return [(episode.name, episode.value, episode.since, episode.until) for episode in episodes]


def test_a_newer_home_closes_the_older_one_and_both_stay() -> None:
    assert _spans(("2020-01-01", "I live in Paris."), ("2024-05-01", "I moved to Lyon.")) == [
        ("lives_in", "Paris", "2020-01-01", "2024-05-01"),
        ("lives_in", "Lyon", "2024-05-01", None),
    ]


def test_moving_back_opens_a_new_episode() -> None:
    spans = _spans(
        ("2020-01-01", "I live in Kiel."), ("2021-01-01", "I moved to Bonn."), ("2022-01-01", "I live in Kiel.")
    )
    assert [span[1:] for span in spans] == [
        ("Kiel", "2020-01-01", "2021-01-01"),
        ("Bonn", "2021-01-01", "2022-01-01"),
        ("Kiel", "2022-01-01", None),
    ]


def test_a_change_of_mind_closes_the_liking_and_opens_the_dislike() -> None:
    assert _spans(("2020-01-01", "I like olives."), ("2021-01-01", "I don't like olives any more.")) == [
        ("likes", "olives", "2020-01-01", "2021-01-01"),
        ("dislikes", "olives", "2021-01-01", None),
    ]


def test_what_used_to_be_is_closed_or_was_never_open() -> None:
    assert _spans(("2020-01-01", "I live in Kiel."), ("2021-01-01", "I used to live in Kiel.")) == [
        ("lives_in", "Kiel", "2020-01-01", "2021-01-01")
    ]
    assert _spans(("2021-01-01", "I used to live in Kiel.")) == [("lives_in", "Kiel", None, "2021-01-01")]


def test_the_order_of_reading_does_not_matter() -> None:
    observations = _observations(
        ("2020-01-01", "I live in Kiel."), ("2021-01-01", "I live in Bonn."), ("2022-01-01", "I hate tea.")
    )
    results = {tuple(episodes_of(order)) for order in itertools.permutations(observations)}
    assert len(results) == 1


def test_other_peoples_facts_are_no_attributes() -> None:
    assert _spans(("2020-01-01", "My sister lives in Rome.")) == []


def test_a_memory_that_is_no_longer_valid_ends_its_episode() -> None:
    claim = claims_of("I like tea.")[0]
    episodes = episodes_of(observed(claim, "2020-01-01", 1, ends="2021-01-01"))
    assert episodes[0].until == "2021-01-01"
    both = [*observed(claim, "2020-01-01", 1, ends="2021-01-01"), *observed(claim, "2020-06-01", 2)]
    assert episodes_of(both)[0].until is None


def _likes(*evidence: Evidence, name: str = "likes") -> Episode:
    return Episode(name, "tea", evidence[0].day, evidence=evidence)


def test_one_fresh_statement_has_the_stated_probability() -> None:
    assert probability(_likes(Evidence("2024-01-01", 1)), "2024-01-01") == pytest.approx(FRESH)


def test_repetition_raises_age_lowers_denial_lowers() -> None:
    day = "2024-01-01"
    once, old = _likes(Evidence(day, 1)), _likes(Evidence("2019-01-01", 1))
    twice = _likes(Evidence(day, 1), Evidence(day, 2))
    denied = _likes(Evidence(day, 1), Evidence(day, 2, holds=False))
    assert probability(twice, day) == pytest.approx(0.99)
    assert probability(old, day) == pytest.approx(0.45, abs=0.001)  # half of 0.9 after 5 years
    assert probability(denied, day) == pytest.approx(0.9 * 0.1)
    assert probability(once, day) > probability(old, day)


def test_a_denial_that_was_taken_back_counts_half() -> None:
    back = _likes(Evidence("2024-01-01", 1, holds=False), Evidence("2024-01-02", 2))
    assert probability(back, "2024-01-02") == pytest.approx(0.9 * (1 - 0.45), abs=0.001)


def test_what_does_not_change_does_not_age() -> None:
    assert probability(_likes(Evidence("1990-01-01", 1), name="allergic_to"), "2024-01-01") == pytest.approx(FRESH)


def test_what_is_said_later_is_not_known_yet() -> None:
    likes = _likes(Evidence("2024-01-01", 1), Evidence("2024-06-01", 2))
    assert probability(likes, "2024-01-01") == pytest.approx(FRESH)


def test_the_owners_entry_is_certain_while_it_holds() -> None:
    entry = Episode("likes", "tea", "2020-01-01", "2023-01-01", "you", (Evidence("2020-01-01", 0),), entry=1)
    assert probability(entry, "2022-01-01") == 1.0
    assert probability(entry, "2023-01-01") < 1.0


def _stale_error(statements: list[tuple[str, str]], truth: dict[str, str], day: str) -> float:
    """The share of single-valued attributes whose likeliest value on `day` is not the true one."""
    episodes = [episode for episode in episodes_of(_observations(*statements)) if episode.holds_on(day)]
    wrong = 0
    for name, value in truth.items():
        held = [episode for episode in episodes if episode.name == name]
        best = max(held, key=lambda episode: probability(episode, day), default=None)
        wrong += best is None or best.value != value
    return wrong / len(truth)


def test_the_error_of_stale_preferences_falls_after_an_update() -> None:
    """Life-long profile under drift ("AI PERSONA: Towards Life-long Personalization of LLMs"): of six facts four
    change; without the later statements the profile is wrong about those four, with them about none."""
    before = [
        ("2023-01-01", "I live in Kiel."),
        ("2023-01-02", "I work as a baker."),
        ("2023-01-03", "My favourite tea is Assam."),
        ("2023-01-04", "My boss is called Priit."),
        ("2023-01-05", "My name is Lotte."),
        ("2023-01-06", "My dog is called Bruno."),
        ("2023-06-01", "I love my favourite tea."),
    ]
    update = [
        ("2024-03-01", "I moved to Bonn."),
        ("2024-03-02", "I became a teacher."),
        ("2024-03-03", "My favourite tea is Sencha these days."),
        ("2024-03-04", "My new boss is called Ines."),
    ]
    truth = {
        "lives_in": "Bonn", "works_as": "teacher", "favourite tea": "Sencha", "boss's name": "Ines", "name": "Lotte",
        "dog's name": "Bruno",
    }  # fmt: skip
    assert _stale_error(before, truth, "2024-04-01") == pytest.approx(4 / 6)
    assert _stale_error(before + update, truth, "2024-04-01") == 0.0
