from __future__ import annotations

import pytest

from edge_runtime.memory.claim_values import items_of, role_of, trimmed


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("jazz these days", "jazz"),
        ("Lyon, which is lovely", "Lyon"),
        ("tea because it is warm", "tea"),
        ("it", ""),
        ("your cooking", ""),
    ],
)
def test_a_value_ends_with_its_clause(value: str, expected: str) -> None:
    assert trimmed(value) == expected


@pytest.mark.parametrize(
    ("value", "items"),
    [
        ("walnuts, pecans and shellfish", ["walnuts", "pecans", "shellfish"]),
        ("fish and chips", ["fish and chips"]),
        ("games with guns or knives", ["games with guns or knives"]),
        ("tea and I hate wine", ["tea"]),
    ],
)
def test_listings_are_cut_into_items(value: str, items: list[str]) -> None:
    assert items_of(value) == items


def test_a_trade_without_its_place() -> None:
    assert role_of("nurse in a hospice") == "nurse"
