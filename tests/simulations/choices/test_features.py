"""phi for a table: fitted on public texts only, and the bound on what is linear in it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import simulations.choices.features as choice_features
from simulations.choices.data import ChoiceSet, Item
from simulations.choices.features import best_linear_tastes, item_features
from tests.simulations.choices.choice_help import small_set

DEBATES = tuple((f"debate {number % 2}", f"argument {number}") for number in range(60))


@pytest.fixture
def raw_features(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Features drawn from a text's own characters in place of models; returns which texts each cache was asked for."""
    asked: dict[str, list[str]] = {}

    def cached(name: str, pairs: Sequence[Item], sources: Sequence[str]) -> np.ndarray:
        asked.setdefault(name, []).extend(text for _, text in pairs)
        return np.stack([np.random.default_rng(list(text.encode())).standard_normal(23) for _, text in pairs])

    monkeypatch.setattr(choice_features, "cached_features", cached)
    monkeypatch.setattr(choice_features, "argument_items", lambda folder: DEBATES)
    return asked


def text_set(name: str, simulated: bool) -> ChoiceSet:
    given = small_set()
    return replace(given, name=name, item_features=None, truth=given.truth if simulated else None)


def test_films_bring_their_own_features(tmp_path: Path) -> None:
    given = small_set()
    found = item_features(given, tmp_path, ["style"], 23)
    assert found.phi is given.item_features and found.feature_map is None


def test_a_held_out_text_does_not_move_the_taste_populations_map(
    raw_features: dict[str, list[str]], tmp_path: Path
) -> None:
    given = text_set("taste", simulated=True)
    shown = [replace(person, pairs=person.pairs % 30) for person in given.people]  # the last ten are held out
    given = replace(given, people=tuple(shown))
    other = replace(given, items=(*given.items[:30], *((prompt, f"{text} other") for prompt, text in given.items[30:])))
    maps = [item_features(one, tmp_path, ["style"], 23).feature_map for one in (given, other)]
    assert maps[0] is not None and maps[1] is not None and maps[0].digest == maps[1].digest
    assert set(raw_features) == {"ukpconvarg"}, "the texts are those of ukpconvarg and share its cache"


def test_the_villages_map_is_fitted_on_arguments(raw_features: dict[str, list[str]], tmp_path: Path) -> None:
    given = text_set("village", simulated=False)
    other = replace(given, items=tuple((prompt, f"{text} other") for prompt, text in given.items))
    found = [item_features(one, tmp_path, ["style"], 23) for one in (given, other)]
    assert found[0].feature_map is not None and found[1].feature_map is not None
    assert found[0].feature_map.digest == found[1].feature_map.digest
    assert not np.allclose(found[0].phi, found[1].phi)


def test_the_best_linear_taste_is_found_on_the_shown_items_only() -> None:
    random = np.random.default_rng(0)
    phi = random.standard_normal((200, 5))
    truth = random.standard_normal((5, 2))
    scores = phi @ truth
    scores[150:] = 100.0  # never shown
    groups = ["a"] * 75 + ["b"] * 125
    scores[75:150] += 7.0  # a group's own level means nothing
    found = best_linear_tastes(phi, scores, np.arange(150), groups)
    np.testing.assert_allclose(found, truth, atol=0.01)
