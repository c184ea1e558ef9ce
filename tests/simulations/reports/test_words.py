"""Verdicts and numbers as words."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.errors import PenchantError
from simulations.reports import words
from simulations.reports.schema import Gain, RunReport, parse_report
from tests.simulations.reports.report_fixture import invented_report, smallest_report


def headline_for(gain: float, low: float, high: float) -> str:
    report = smallest_report()
    report["arms"]["rag+bases"].update(gain=gain, gain_interval=[low, high])
    return words.headline(parse_report(report))


def test_headline_follows_the_interval() -> None:
    assert "rag+bases lowers the loss by 41 % (95 % interval 38 to 44)" in headline_for(0.41, 0.38, 0.44)
    assert "does not beat the plain model" in headline_for(0.012, -0.004, 0.03)
    assert "(−0.4 to 3.0) includes zero" in headline_for(0.012, -0.004, 0.03)
    assert "does not beat the plain model" in headline_for(-0.012, -0.03, 0.004)
    assert "does not beat the plain model" in headline_for(0.01, 0.0, 0.02)  # touching zero is no gain
    assert "is worse than the plain model: the loss rises by 5.0 % (4.0 to 6.0)" in headline_for(-0.05, -0.06, -0.04)
    # A bound that is not zero is never printed as zero, whichever side decides.
    assert "0.0 " not in headline_for(0.004, 0.0002, 0.008).split("interval")[1]


def test_headline_is_about_the_planned_arm_not_the_best() -> None:
    report = smallest_report()
    report["arms"]["shared"].update(gain=0.9, gain_interval=[0.8, 0.95])
    assert words.headline_arm(parse_report(report)) == "rag+bases"
    del report["arms"]["rag+bases"]
    assert words.headline_arm(parse_report(report)) == "rag+shared"
    report["arms"] = {"none": report["arms"]["none"]}
    assert "compares nothing" in words.headline(parse_report(report))


@pytest.mark.parametrize(("value", "expected"), [(0.41, "41 %"), (-0.012, "−1.2 %"), (0.0, "0.0 %"),
                                                 (0.0003, "0.03 %"), (1.0, "100 %")])  # fmt: skip
def test_percent(value: float, expected: str) -> None:
    assert words.percent(value) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (7412, "7.4 kB"),
        (99_960, "100 kB"),
        (999_960, "1.0 MB"),
        (None, "not measured"),
    ],
)
def test_bytes_text(size: float | None, expected: str) -> None:
    assert words.bytes_text(size) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.41, "0.4 s"), (59.7, "1 min 0 s"), (251.7, "4 min 12 s"), (7260, "2 h 1 min")],
)
def test_seconds_text(seconds: float, expected: str) -> None:
    assert words.seconds_text(seconds) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(9.999, "10.00"), (0.305, "0.305"), (-2.5, "−2.50"), (12345.6, "12346"), (0, "0"),
                            (2e-5, "2e-5"), (float("inf"), "infinite"), (None, "not stated")],
)  # fmt: skip
def test_number_text(value: float | None, expected: str) -> None:
    assert words.number_text(value) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.2, "better"), (-0.2, -0.1, "worse"), (-0.1, 0.1, "undecided"), (0.0, 0.1, "undecided")],
)
def test_verdict(low: float, high: float, expected: str) -> None:
    assert words.verdict(Gain(gain=(low + high) / 2, gain_interval=(low, high))) == expected


def checked_with(section: str, **changes: Any) -> RunReport:
    report = invented_report()
    report[section].update(changes)
    return parse_report(report)


def test_low_signal_is_a_warning() -> None:
    assert "below 0.3" in words.snr_warning(checked_with("privacy", snr=0.12).privacy)
    assert words.snr_warning(checked_with("privacy", snr=0.3).privacy) == ""


def test_spectrum_below_the_noise_says_so() -> None:
    drowned = checked_with("bases", noise_floor=0.5)
    assert drowned.bases is not None
    sentence = words.spectrum_sentence(drowned.bases, drowned.privacy)
    assert "All 4 singular values lie below the noise floor" in sentence and "may be credited" in sentence
    clear = checked_with("bases", noise_floor=0.1)
    assert clear.bases is not None
    assert "lie above the noise floor" in words.spectrum_sentence(clear.bases, clear.privacy)


def test_wire_above_its_limit_says_so() -> None:
    assert "ABOVE the limit" in words.wire_sentence(checked_with("wire", up_bytes=10_001).wire)
    assert "within the limit" in words.wire_sentence(checked_with("wire", up_bytes=10_000).wire)


def test_stranger_who_helps_is_not_hidden() -> None:
    report = invented_report()
    report["controls"]["stranger_memory"].update(gain=0.05, gain_interval=[0.03, 0.07])
    assert any("helps too" in line for line in words.headline_details(parse_report(report)))


def test_the_clip_is_shown_by_kind_of_round() -> None:
    report = smallest_report()
    assert words.clip_text(parse_report(report).privacy) == "shared 0.076, bases 0.1"
    report["privacy"]["clip"] = 0.5
    assert words.clip_text(parse_report(report).privacy) == "0.5"
    report["privacy"]["clip"] = None
    assert words.clip_text(parse_report(report).privacy) == ""
    report["privacy"]["clip"] = {"shared": -1.0}
    with pytest.raises(PenchantError, match="clip"):
        parse_report(report)
