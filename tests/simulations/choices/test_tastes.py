"""The taste population's recipe: what the scorers read, who the people are, how they choose."""

import numpy as np
import pytest

from protocol.errors import PenchantError
from simulations.choices.tastes import (
    COMMON,
    SCORERS,
    TasteRecipe,
    draw_outcomes,
    draw_taste,
    read,
    score_texts,
    simulate_people,
    split_texts,
)

HIGHER_LOWER = {
    "length": ("one two three four five six", "one two"),
    "formality": ("The committee considered several important proposals", "yeah it's just really dumb stuff"),
    "warmth": ("thanks dear friend, I love and care", "the rate of the tax was set in March"),
    "concreteness": ("a dog on the table with 3 books", "the implementation of moderation and responsibility"),
    "questions": ("Is it? Why not? Who knows?", "It is. That is all. I know."),
    "self": ("I think that my view is mine", "they hold that view"),
    "reader": ("you know your own mind", "they know their minds"),
    "sentiment": ("a good and wonderful success", "a terrible death and an evil crime"),
    "emphasis": ("NEVER EVER do that!!!", "do not do that."),
}
TEXTS = [text for pair in HIGHER_LOWER.values() for text in pair]
GROUPS = ["debate one"] * 9 + ["debate two"] * 9


@pytest.mark.parametrize("name", SCORERS)
def test_a_scorer_puts_the_plain_example_first(name: str) -> None:
    higher, lower = HIGHER_LOWER[name]
    assert SCORERS[name](read(higher)) > SCORERS[name](read(lower))


def test_scores_are_standardised_and_cut() -> None:
    scores = score_texts(TEXTS)
    assert scores.shape == (18, len(SCORERS)) and np.abs(scores).max() == 3.0
    lengths = np.array([SCORERS["length"](read(text)) for text in TEXTS])
    expected = np.clip((lengths - lengths.mean()) / lengths.std(), -3, 3)
    np.testing.assert_allclose(scores[:, list(SCORERS).index("length")], expected)


def test_texts_that_are_all_alike_are_refused() -> None:
    with pytest.raises(PenchantError, match="too few or too alike"):
        score_texts(["the same"] * 3)


def test_a_taste_is_sparse_around_the_common_one_and_has_both_signs() -> None:
    recipe = TasteRecipe()
    common = np.array([COMMON.get(name, 0.0) for name in SCORERS])
    own = np.stack([draw_taste(recipe, np.random.default_rng(seed)) for seed in range(300)])
    own -= recipe.common_strength * common / np.linalg.norm(common)
    counts = np.count_nonzero(np.abs(own) > 1e-9, axis=1)
    assert set(counts) == {1, 2, 3, 4}
    np.testing.assert_allclose(np.linalg.norm(own, axis=1), recipe.own_strength)
    used = np.abs(own) > 1e-9
    assert used.any(axis=0).all(), "every scorer is somebody's taste"
    assert (own > 1e-9).sum() == pytest.approx((own < -1e-9).sum(), rel=0.25)


def test_choices_follow_the_stated_law() -> None:
    recipe = TasteRecipe(tie_width=0.5, temperature=2.0)
    utilities = np.array([1.0, 0.0])
    pairs = np.tile([0, 1], (20_000, 1))
    outcomes = draw_outcomes(utilities, pairs, recipe, np.random.default_rng(0))
    first, second = 1 / (1 + np.exp(0.5 - 0.5)), 1 / (1 + np.exp(0.5 + 0.5))
    assert np.mean(outcomes == 1.0) == pytest.approx(first, abs=0.01)
    assert np.mean(outcomes == 0.0) == pytest.approx(second, abs=0.01)
    assert np.mean(outcomes == 0.5) == pytest.approx(1 - first - second, abs=0.01)


def test_held_out_pairs_are_of_held_out_texts_and_of_one_group() -> None:
    recipe = TasteRecipe(fleet=20, newcomers=5, choices=8, held_out_choices=6)
    people = simulate_people(TEXTS, GROUPS, recipe)
    assert len(people) == 25 and len({person.name for person in people}) == 25
    training, held_out = split_texts(GROUPS, recipe, np.random.default_rng([recipe.seed, 0]))
    assert not set(np.concatenate(training)) & set(np.concatenate(held_out))
    for person in people:
        assert person.pairs.shape == (8, 2) and person.held_out_pairs.shape == (6, 2)
        assert set(person.pairs.ravel()) <= set(np.concatenate(training))
        assert set(person.held_out_pairs.ravel()) <= set(np.concatenate(held_out))
        for first, second in np.concatenate([person.pairs, person.held_out_pairs]):
            assert first != second and GROUPS[first] == GROUPS[second]


def test_the_same_seed_gives_the_same_people_and_more_people_only_add() -> None:
    small = simulate_people(TEXTS, GROUPS, TasteRecipe(fleet=4, newcomers=0, choices=4, held_out_choices=2))
    large = simulate_people(TEXTS, GROUPS, TasteRecipe(fleet=6, newcomers=0, choices=4, held_out_choices=2))
    other = simulate_people(TEXTS, GROUPS, TasteRecipe(seed=1, fleet=4, newcomers=0, choices=4, held_out_choices=2))
    for one, two in zip(small, large, strict=False):
        np.testing.assert_array_equal(one.outcomes, two.outcomes)
        np.testing.assert_array_equal(one.pairs, two.pairs)
    assert any((one.pairs != two.pairs).any() for one, two in zip(small, other, strict=True))


@pytest.mark.parametrize(
    "wrong", [{"fleet": 0}, {"most_scorers": 10}, {"held_out_fraction": 1.0}, {"temperature": 0.0}, {"tie_width": -1.0}]
)
def test_a_wrong_recipe_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(PenchantError):
        TasteRecipe(**wrong)  # type: ignore[arg-type]


def test_groups_must_fit_the_texts_and_be_large_enough() -> None:
    with pytest.raises(PenchantError, match="every text its group"):
        simulate_people(TEXTS, GROUPS[:-1], TasteRecipe(fleet=1, newcomers=0))
    with pytest.raises(PenchantError, match="too few"):
        simulate_people(TEXTS, [*GROUPS[:-1], "a group of one"], TasteRecipe(fleet=1, newcomers=0))
