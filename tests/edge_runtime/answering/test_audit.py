"""The audit is JSON, complete, and holds no text of a memory."""

from __future__ import annotations

import json
from dataclasses import fields

from edge_runtime.answering.audit import Audit
from edge_runtime.answering.evidence import Evidence
from edge_runtime.answering.planner import Plan


def test_every_field_but_its_own_place_is_in_the_dict() -> None:
    audit = Audit(
        query="What is my dog called?",
        plan=Plan(("memory",), "about the owner"),
        candidates=[Evidence("memory:1", "My dog is called Bruno", "2025-01-01", "statement", 0.5, 0.4, 1.0)],
        profile=[("attribute:1", "You live in Ghent.")],
        adapters=[("cd" * 32, 0.5)],
        turn_id=4,
    )
    stored = json.loads(json.dumps(audit.to_dict()))
    assert set(stored) == {field.name for field in fields(Audit)} - {"turn_id"}
    assert stored["candidates"][0]["id"] == "memory:1" and "Bruno" not in json.dumps(stored)
    assert stored["profile"] == [{"id": "attribute:1", "text": "You live in Ghent."}]
    assert stored["adapters"] == [{"sha256": "cd" * 32, "scale": 0.5}]


def test_seconds_add_up_per_stage_even_if_a_stage_fails() -> None:
    audit = Audit()
    for _ in range(2):
        try:
            with audit.timed("retrieve"):
                raise ValueError
        except ValueError:
            pass
    assert list(audit.seconds) == ["retrieve"] and audit.seconds["retrieve"] >= 0
