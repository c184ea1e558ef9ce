"""An attribute as a sentence of its owner, and which attributes matter for a question."""

from __future__ import annotations

import re
from typing import Final

_SENTENCES: Final = {
    "name": "My name is {}.",
    "lives_in": "I live in {}.",
    "lives": "I live {}.",
    "born_in": "I was born in {}.",
    "born_on": "I was born on {}.",
    "grew_up_in": "I grew up in {}.",
    "comes_from": "I come from {}.",
    "nationality": "I am {}.",
    "works_at": "I work at {}.",
    "works_from": "I work from {}.",
    "studies": "I study {}.",
    "speaks": "I speak {}.",
    "does_not_speak": "I do not speak {}.",
    "learning": "I am learning {}.",
    "allergic_to": "I am allergic to {}.",
    "intolerant_to": "I am intolerant to {}.",
    "diet": "My diet: {}.",
    "eats": "I eat {}.",
    "eats only": "I only eat {}.",
    "does_not_eat": "I do not eat {}.",
    "drinks": "I drink {}.",
    "does_not_drink": "I do not drink {}.",
    "smokes": "I smoke.",
    "does_not_smoke": "I do not smoke.",
    "avoids": "I avoid {}.",
    "likes": "I like {}.",
    "dislikes": "I do not like {}.",
    "prefers": "I prefer {}.",
    "plays": "I play {}.",
    "collects": "I collect {}.",
    "owns": "I have {}.",
    "does_not_own": "I do not have {}.",
    "health": "My health: {}.",
    "takes": "I take {}.",
    "marital_status": "I am {}.",
    "age": "I am {} years old.",
    "habit": "I {}.",
    "plans": "I {}.",
}
_FOOD: Final = (
    "eat eating food cook cooking recipe recipes dinner lunch breakfast supper meal meals snack restaurant dish "
    "bake baking "
    "ingredient ingredients hungry menu diet drink dessert cake picnic"
)
_FREE: Final = (
    "like enjoy fun hobby hobbies weekend evening recommend suggest gift present idea ideas free spare interests"
)
# Words of a question that make an attribute matter although they do not name its value.
_TOPICS: Final = {
    "name": "name called who",
    "lives_in": "live living home city town address where near nearby local weather move moved",
    "lives": "live living home alone household",
    "born_in": "born birth birthplace where",
    "born_on": "born birthday age old",
    "birthday": "birthday born age old",
    "age": "age old birthday",
    "grew_up_in": "grew childhood child young",
    "comes_from": "from come origin",
    "nationality": "from nationality passport visa",
    "works_as": "work job profession career occupation living",
    "works_at": "work job employer company office workplace",
    "works_from": "work job office",
    "studies": "study studies student university course degree",
    "speaks": "language languages speak fluent translate",
    "does_not_speak": "language languages speak translate",
    "learning": "learn learning lesson lessons practise",
    "allergic_to": f"{_FOOD} allergy allergic allergies",
    "intolerant_to": f"{_FOOD} intolerant",
    "diet": f"{_FOOD} vegetarian vegan",
    "eats": _FOOD,
    "eats only": _FOOD,
    "does_not_eat": _FOOD,
    "drinks": f"{_FOOD} drinks bar tea coffee",
    "does_not_drink": f"{_FOOD} drinks bar alcohol",
    "avoids": "avoid recommend suggest",
    "likes": _FREE,
    "dislikes": _FREE,
    "prefers": f"{_FREE} prefer rather better choose",
    "plays": f"{_FREE} play music sport instrument game",
    "collects": f"{_FREE} collect collection",
    "health": "health doctor medicine exercise sport ill pain",
    "takes": "health doctor medicine tablets",
    "marital_status": "married wife husband partner single family",
    "habit": "usually routine when often habit schedule week day time",
    "plans": "plan plans next soon week month year upcoming when schedule",
    "owns": "have own pet pets children things",
}
# In the order in which they matter to a stranger who is to help: for lines without a question and for summaries.
IMPORTANCE: Final = (
    "name", "allergic_to", "intolerant_to", "diet", "does_not_eat", "does_not_drink", "health", "takes", "lives_in",
    "works_as", "works_at", "marital_status", "owns", "speaks", "prefers", "avoids", "likes", "dislikes", "plans",
    "habit", "learning", "studies",
)  # fmt: skip
_COMMON_WORDS = (
    "a about am an and any are as at be been but by can could did do does for from "
    "get give good had has have her him his how i if in into is it its just let may "
    "me mine my need not of on one or our please say she should some tell that the their them "
    "then they thing things this to us very want was we were what which will with would you your "
)
_COMMON: Final = frozenset(_COMMON_WORDS.split())
_NO_TRADE: Final = frozenset({"retired", "self-employed", "unemployed", "out of work", "between jobs"})
_ABOUT_ME = re.compile(
    r"\b(?:who am i|about me|know me|describe me|kind of person am i|my profile|introduce me|remember about "
    r"me)\b",
    re.I,
)


def sentence_of(name: str, value: str) -> str:
    """What its owner would say of this attribute."""
    if name == "works_as":
        article = "an " if value[:1].lower() in "aeiou" else "a "
        return f"I am {value}." if value.lower() in _NO_TRADE else f"I work as {article}{value}."
    form = _SENTENCES.get(name)
    if form is None:
        return f"My {name.replace('_', ' ')}: {value}." if not name.endswith("'s name") else f"My {name} is {value}."
    return form.format(re.sub(r"^(?:am|is) ", "am ", value))


def asks_about_owner(question: str) -> bool:
    """Whether the question is about the owner as a whole."""
    return _ABOUT_ME.search(question) is not None


def relevance(name: str, value: str, question: str) -> float:
    """How much an attribute matters for `question`, from 0 (not at all): shared words of its value and its name count 1
    each, a shared topic 1/2."""
    asked = words_of(question)
    score = float(len(asked & words_of(f"{name.replace('_', ' ')} {value}")))
    return score + (0.5 if asked & words_of(_TOPICS.get(name, "")) else 0.0)


def words_of(text: str) -> set[str]:
    """The telling words of a text, in lower case, plural and simple verb endings taken off."""
    return {stem(word) for word in re.findall(r"[^\W_]+", text.lower()) if word not in _COMMON}


def stem(word: str) -> str:
    """A crude English stem: enough that "cats" meets "cat" and "living" meets "lives"."""
    for ending in ("ing", "ies", "ed", "es", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: -len(ending)]
    return word
