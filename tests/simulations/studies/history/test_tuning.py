"""Recipes by name, and what is said about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from protocol.errors import PenchantError
from simulations.studies.history.recipe import Recipe
from simulations.studies.history.tuning import recipe_of, table, try_recipe
from simulations.studies.personal_fleet import HistorySplit, Workshop
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.simulations.studies.history_help import person_of, tiny_shop


@pytest.fixture(scope="module")
def shop() -> Iterator[Workshop]:
    with tiny_shop() as opened:
        yield opened


def test_a_name_says_objective_and_rate() -> None:
    assert recipe_of("turns 0.02") == Recipe(learning_rate=0.02)
    assert recipe_of("grounded 0.1") == Recipe("grounded", batch_size=4, learning_rate=0.1)
    assert recipe_of("epsilon-8 0.03") == Recipe(private_rate=0.03)
    for wrong in ("next_token", "dpo 0.1", "grounded fast"):
        with pytest.raises(PenchantError, match="OBJECTIVE RATE"):
            recipe_of(wrong)


def test_a_recipe_is_judged_with_and_without_memory(shop: Workshop) -> None:
    row = try_recipe(shop, person_of("ann"), HistorySplit("blogs"), 14, "next_token 0.05", HashingEmbedder())
    losses = row["losses"]
    assert losses["personal"] < losses["none"] and losses["rag+personal"] < losses["rag"] and row["seconds"] > 0
    still = try_recipe(shop, person_of("ann"), HistorySplit("blogs"), 14, "next_token 0.000001", HashingEmbedder())
    assert still["losses"]["personal"] == pytest.approx(losses["none"], abs=1e-3)


def test_gains_are_means_over_people() -> None:
    def row(recipe: str, after: float, seconds: float) -> dict[str, Any]:
        losses = {"none": 4.0, "rag": 3.8, "personal": after, "rag+personal": after - 0.3}
        return {"size": 60, "recipe": recipe, "losses": losses, "seconds": seconds}

    text = table([row("a 1", 3.9, 3.0), row("a 1", 3.8, 5.0), row("b 2", 4.1, 1.0), row("b 2", 4.1, 1.0)])
    cells = text.splitlines()[2].split("|")
    assert cells[1].strip() == "60 texts, a 1" and cells[2].strip().startswith("0.1500 [")
    assert cells[3].strip().startswith("0.2500 [") and cells[4].strip() == "4"
    assert "| 60 texts, b 2 | -0.1000 [-0.1000, -0.1000] | 0.0000" in text
