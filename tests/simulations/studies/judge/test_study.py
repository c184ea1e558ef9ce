"""Cases have known answers and no person in both parts; a stopped study asks nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from protocol.errors import PenchantError
from simulations.datasets.village import load_village
from simulations.studies.judge.cases import EXAMPLES, MOST_OF_A_PERSON, load_cases
from simulations.studies.judge.judge import JudgeCase, report
from simulations.studies.judge.reward import reward_judgements
from simulations.studies.judge.study import study, table
from simulations.studies.run import StudyRun
from tests.simulations.choices.choice_help import small_set
from tests.simulations.studies.prefeval_help import write_prefeval


def test_the_village_gives_what_its_people_chose() -> None:
    tuning, reported = load_cases("village", Path(), tuning=500, reported=500)
    assert not {one.person for one in tuning} & {one.person for one in reported}
    chosen = {person.id: {row.chosen for row in person.test_choices} for person in load_village()}
    for one in (*tuning, *reported):
        start = one.preferred.removesuffix(" ...")
        assert any(text.split()[:3] == start.split()[:3] for text in chosen[one.person])
        assert one.preferred != one.other and 1 <= len(one.known) <= EXAMPLES
    counts = [sum(one.person == person for one in reported) for person in {one.person for one in reported}]
    assert max(counts) <= MOST_OF_A_PERSON


def test_prefeval_gives_its_right_option_and_tuning_topics_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.studies.judge.cases.TUNING_TOPICS", 1)
    write_prefeval(tmp_path / "prefeval")
    tuning, reported = load_cases("prefeval", tmp_path, tuning=9, reported=9)
    assert {one.key.split("/")[1] for one in tuning} == {"food_dishes"} and len(reported) == 4
    assert all(one.preferred == "Plain ones." and one.other != "Plain ones." for one in reported)
    with pytest.raises(PenchantError, match="no cases"):
        load_cases("horoscopes", tmp_path, tuning=2, reported=2)


def test_own_reward_weights_judge_better_than_a_strangers_and_know_when() -> None:
    choices = small_set(spread=8.0)
    own, other = (reward_judgements(choices, Path(), stranger=stranger) for stranger in (False, True))
    assert set(own) == set(other) and all(key.startswith("movielens/p") for key in own)
    ties = sum(int((person.held_out_outcomes == 0.5).sum()) for person in choices.people)
    assert len(own) == sum(len(person.held_out_pairs) for person in choices.people) - ties
    found, control = (report(list(one.values()), 1.0) for one in (own, other))
    assert found["agreement"][0] > control["agreement"][0] + 0.1
    assert found["certain"]["agreement"][0] > found["agreement"][0]


@dataclass
class Counting:
    """Right, and sure by the length of the question."""

    calls: int = 0

    def probability(self, known: Sequence[str], question: str, first: str, second: str) -> float:
        self.calls += 1
        sure = 0.5 + 0.4 * (len(question) % 2)
        return sure if first == "right" else 1.0 - sure


def test_a_stopped_study_goes_on_and_keeps_no_text(tmp_path: Path) -> None:
    cases = [JudgeCase(f"s/{n}", f"p{n}", ("secret",), "q" * n, "right", "wrong") for n in range(8)]
    judge = Counting()
    first = study(StudyRun.open(tmp_path, {}), "local", judge, (cases[:4], cases[4:]), 0.6)
    assert judge.calls == 16
    again = study(StudyRun.open(tmp_path, {}), "local", judge, (cases[:4], cases[4:]), 0.6)
    assert again == first and judge.calls == 16
    assert first["certain"]["coverage"] == 0.5 and first["certain"]["agreement"][0] == 1.0
    assert first["undecided"] == 0.5
    assert "secret" not in (tmp_path / "results.jsonl").read_text("utf-8")
    assert "50.0 (2)" in table({"local, s": first})
