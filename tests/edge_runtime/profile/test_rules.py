from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.feedback.preferences import Preference
from edge_runtime.memory.memory import Memory
from edge_runtime.profile.profile import Profile
from edge_runtime.profile.rules import rules_of_choices, sign_test
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError
from tests.edge_runtime.memory_helpers import HashingEmbedder


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[Vault]:
    with Vault.open(tmp_path, b"k" * 32) as vault:
        yield vault


@pytest.fixture
def profile(vault: Vault) -> Profile:
    return Profile(vault)


def _choices(*pairs: tuple[str, str]) -> list[Preference]:
    return [Preference(number, "?", chosen, rejected, "2025-01-01") for number, (chosen, rejected) in enumerate(pairs)]


_SHORT = ("Boil it.", "Bring a large pan of water to the boil, then add it and wait.")


def test_choices_that_lean_one_way_give_a_rule() -> None:
    assert rules_of_choices(_choices(*[_SHORT] * 8)) == ["Keep answers short."]
    assert rules_of_choices(_choices(*[_SHORT[::-1]] * 8)) == ["Give long, detailed answers."]


def test_few_or_mixed_choices_give_none() -> None:
    assert rules_of_choices(_choices(*[_SHORT] * 5)) == []
    assert rules_of_choices(_choices(*[_SHORT] * 5, *[_SHORT[::-1]] * 4)) == []


def test_the_sign_test_is_two_sided() -> None:
    assert sign_test(8, 0) == pytest.approx(2 / 256)
    assert sign_test(0, 8) == sign_test(8, 0)
    assert sign_test(4, 4) == 1.0


def test_proposals_are_inactive_until_accepted(profile: Profile) -> None:
    assert profile.propose_rules(_choices(*[_SHORT] * 8)) == 1
    assert profile.propose_rules(_choices(*[_SHORT] * 8)) == 0
    (rule,) = profile.rules()
    assert (rule.active, rule.source) == (False, "proposed")
    assert profile.prompt_lines("Anything?") == []
    profile.change_rule(rule.id, active=True)
    assert [line.id for line in profile.prompt_lines("Anything?")] == [f"rule:{rule.id}"]


def test_a_stated_preference_about_answers_is_proposed(vault: Vault, profile: Profile) -> None:
    memory = Memory(vault, HashingEmbedder())
    memory.remember("I prefer short answers without jokes.")
    memory.remember("I prefer aisle seats.")
    profile.rebuild(memory)
    profile.rebuild(memory)
    assert [(rule.text, rule.active) for rule in profile.rules()] == [("Prefer short answers without jokes.", False)]
    assert profile.forget_traces([1], lambda _: False) == 2  # the attribute and the rule
    assert profile.rules() == []


def test_a_removed_or_rewritten_proposal_does_not_come_back(profile: Profile) -> None:
    choices = _choices(*[_SHORT] * 8)
    profile.propose_rules(choices)
    changed = profile.change_rule(profile.rules()[0].id, text="Three sentences at most.", active=True)
    assert changed.source == "you"
    assert profile.propose_rules(choices) == 0
    profile.remove_rule(changed.id)
    assert profile.propose_rules(choices) == 0 and profile.rules() == []


def test_the_owners_rule_is_active_and_added_once(profile: Profile) -> None:
    first, second = profile.add_rule("No emoji."), profile.add_rule("no emoji.")
    assert first.active and first.id == second.id and first.source == "you"
    with pytest.raises(PenchantError, match="no rule 9"):
        profile.change_rule(9, active=False)
