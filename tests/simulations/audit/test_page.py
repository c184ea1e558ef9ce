from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from rich.console import Console

pytest.importorskip("matplotlib")
from simulations.attacks.finding import Estimate, Finding, proportion
from simulations.audit.page import draw_audit, render_audit, show_audit
from simulations.audit.result import Audit


def audit(*more: Finding, epsilon: float = 5.0) -> Audit:
    findings = (
        Finding("who is it?", "the bare update", "right of 30", proportion(500, 500), 1 / 30, needed=0.9),
        Finding("who is it?", "one released sum", "right of 30", proportion(40, 500), 1 / 30, ceiling=0.3),
        Finding("canary", "all sums", "epsilon, at least", Estimate(2.3, 2.3, math.inf, 2.3, 40), 0.0, ceiling=2.9),
        *more,
    )
    return Audit("A <village>", findings, epsilon, 1e-3, 30, 5, False, 0, {"people": 1.0}, "2026", "penchant audit x")


LEAK = Finding("who is it?", "a leaking sum", "right of 30", proportion(400, 500), 1 / 30, ceiling=0.3, note="<b>")


def test_the_headline_tells_what_is_above_and_what_is_too_weak() -> None:
    assert audit().headline == "No measured value is above its ceiling (2 tested); 1 of 1 controls succeeded."
    assert audit(LEAK).headline.startswith("1 of 3 measured values lie above their ceiling: who is it? (a leaking sum)")
    weak = Finding("words", "bare", "AUC", proportion(50, 100), 0.5, needed=0.7)
    assert "1 of 2 controls succeeded" in audit(weak).headline and audit(weak).weak == [weak]


def test_the_json_has_no_number_that_json_does_not_have() -> None:
    data = json.loads(json.dumps(audit(epsilon=math.inf).to_json(), allow_nan=False))
    assert data["epsilon"] is None and data["findings"][2]["estimate"]["high"] is None
    assert [finding["verdict"] for finding in data["findings"]] == ["succeeds", "below", "below"]
    assert data["above"] == 0 and data["versions"]["numpy"]


def test_the_page_stands_alone_and_escapes_and_the_picture_is_one() -> None:
    picture = draw_audit(audit(LEAK))
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    page = render_audit(audit(LEAK), picture)
    assert "A &lt;village&gt;" in page and "&lt;b&gt;" in page and "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert page.count("<tr class=") == 4 and 'class="above"' in page and "2.3 or more" in page


def test_the_table_shows_every_row_with_its_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    show_audit(audit(LEAK), Console(width=150), Path("out"))
    text = capsys.readouterr().out
    assert "ABOVE" in text and "pass" in text and "succeeds" in text and "Promised: epsilon 5.00" in text
    show_audit(audit(epsilon=math.inf), Console(width=150), Path("out"))
    assert "nothing was promised" in capsys.readouterr().out
