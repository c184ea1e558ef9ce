"""The PRV accountant and the reported epsilon are two computations of one number."""

from __future__ import annotations

import sys

import pytest

from protocol.accounting import Accountant, PrivacyEvent
from simulations.experiments.prv import epsilon_prv

# Skellam events as the demo's rounds have them: integer sensitivities of a vector of 16 bits.
ROUNDS = [PrivacyEvent(1.0, l2_sensitivity=300.0, l1_sensitivity=4_000.0)] * 3
MIXED = [*ROUNDS, PrivacyEvent(1.7, l2_sensitivity=500.0, l1_sensitivity=9_000.0), PrivacyEvent(0.8, count=2)]


@pytest.mark.parametrize("delta", [1e-3, 1e-5])
@pytest.mark.parametrize("events", [ROUNDS, MIXED, [PrivacyEvent(8.0, count=2)]], ids=["rounds", "mixed", "much noise"])
def test_the_two_accountants_agree_within_two_percent(events: list[PrivacyEvent], delta: float) -> None:
    pytest.importorskip("opacus")
    reported = Accountant(events).epsilon(delta)
    checked = epsilon_prv(events, delta)
    assert checked is not None and checked == pytest.approx(reported, rel=0.02)
    # and neither would agree if an event were lost or counted twice
    assert abs(Accountant(events[1:]).epsilon(delta) / checked - 1) > 0.02
    assert abs(Accountant([*events, events[0]]).epsilon(delta) / checked - 1) > 0.02


def test_pld_agrees_where_rounds_are_sampled() -> None:
    pytest.importorskip("opacus")
    pytest.importorskip("dp_accounting")
    events = [PrivacyEvent(1.0, 0.25, 20)]
    reported = Accountant(events).epsilon(1e-5)
    assert epsilon_prv(events, 1e-5) == pytest.approx(reported, rel=0.02)


def test_no_number_is_given_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert epsilon_prv([], 1e-5) == 0.0
    assert epsilon_prv([*ROUNDS, PrivacyEvent(0.0)], 1e-5) is None
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    assert epsilon_prv(ROUNDS, 1e-5) is None
