from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.reward.style import STYLE_NAMES, style_features


def named(answer: str, prompt: str = "") -> dict[str, float]:
    return dict(zip(STYLE_NAMES, style_features(prompt, answer).tolist(), strict=True))


PLAIN = "The river runs past the old mill and the green field."


@pytest.mark.parametrize(
    ("name", "more", "less"),
    [
        ("length", f"{PLAIN} {PLAIN}", PLAIN),
        ("sentence_length", "It rains and it blows and it snows.", "It rains. It blows. It snows."),
        ("word_length", "Extraordinary circumstances", "An odd day"),
        ("long_words", "An extraordinary mountain", "An odd hill"),
        ("variety", "one two three four five six", "one one one two two two"),
        ("questions", "Is it so? It is.", "It is so. It is."),
        ("exclamations", "It is so! It is.", "It is so. It is."),
        ("commas", "Red, green, blue; all", "Red green blue all"),
        ("first_person", "I said what we’ve done", "He said what they have done"),
        ("second_person", "You and your dog", "They and their dog"),
        ("numbers", "In 1999 some 4,000 came", "In May some thousand came"),
        ("capitals", "This is VERY odd", "This is very odd"),
        ("informal", "Yeah, that’s gonna be cool", "Indeed, that will be excellent"),
        ("reasoning", "It fell because it was old; therefore we left", "It fell and was old and we left"),
        ("hedges", "Perhaps it might rain", "It rains again here"),
        ("certainty", "It definitely always rains", "It rains here today"),
        ("positive", "A wonderful and beautiful day", "A windy and cloudy day"),
        ("negative", "A terrible and dangerous day", "A windy and cloudy day"),
        ("warm", "Thank you, dear friend", "Goodbye then, sir"),
        ("abstract", "The education of a nation", "The school of a town"),
        ("lists", "Take:\n- bread\n2. milk", "Take: bread, milk"),
        ("paragraphs", "One.\n\nTwo.", "One.\nTwo."),
    ],
)
def test_each_number_measures_what_it_is_named_after(name: str, more: str, less: str) -> None:
    assert named(more)[name] > named(less)[name] + 0.05


def test_overlap_is_the_share_of_the_prompts_content_words() -> None:
    prompt = "Should I plant tulips or daffodils?"  # plant, tulips, daffodils
    assert named("Plant tulips.", prompt)["prompt_overlap"] == pytest.approx(2 / 3)
    assert named("Should I or I should", prompt)["prompt_overlap"] == 0
    assert named("Anything", "")["prompt_overlap"] == 0


def test_only_overlap_depends_on_the_prompt() -> None:
    one, other = style_features("Which tulips?", "Tulips."), style_features("Who?", "Tulips.")
    assert np.flatnonzero(one != other).tolist() == [STYLE_NAMES.index("prompt_overlap")]


@pytest.mark.parametrize(
    "answer", ["", " \n ", "!?!?!?", "日本語のテキスト。", "a" * 5000, "word " * 5000, "\ud800", "1. 2. 3."]
)
def test_any_text_has_finite_numbers_of_moderate_size(answer: str) -> None:
    values = style_features("?", answer)
    assert values.shape == (len(STYLE_NAMES),) and values.dtype == np.float32
    assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 10


def test_one_word_of_a_short_answer_is_no_extreme() -> None:
    assert named("I do.")["first_person"] < named("I said we like my house and our garden, me too")["first_person"]


def test_the_numbers_are_pinned() -> None:
    """If this fails, raise FEATURES_VERSION in protocol/feature_map.py: old maps mean other numbers."""
    values = style_features(
        "Is the train late?", "Yes, I think the 9 o'clock train is late! Because of snow:\n\n- it fell all night."
    )
    np.testing.assert_allclose(values, PINNED, atol=1e-5)


PINNED = [
    2.77259,
    2.14007,
    3.8,
    0,
    1,
    0,
    0.707107,
    0.282843,
    0.2,
    0,
    0.2,
    0,
    0.2,
    0.2,
    0.2,
    0.2,
    0,
    0,
    0,
    0,
    0.2,
    0.2,
    1,
]
