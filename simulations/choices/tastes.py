"""The taste population: simulated people who choose between real texts, each by a sparse mixture of scorers.

Real choices hold little taste (docs: "Preference bases"), so whether a method *can* find taste is asked of people
whose taste is known. The texts are real and public; only the people are invented. The recipe, all of it seeded:

1. **Texts** come in groups (arguments of one topic). Of each group `held_out_fraction` are held-out texts: pairs for
   training are drawn among the others, held-out pairs among the held-out texts only.
2. **Scorers** (nine, `SCORERS`) are deterministic functions of a text that a reader can check: length, formality,
   warmth, ... over short word lists written for this file. Each is standardised over the corpus (mean 0, deviation
   1, cut at +-3).
3. **A person** u has a taste t_u (one number per scorer): between 1 and `most_scorers` scorers chosen without
   replacement, each with a random sign and a size in [0.5, 1.5], the vector scaled to length `own_strength`; plus
   the common taste `COMMON`, scaled to length `common_strength`, that everybody shares and a global model can learn.
4. **A choice** between two texts x and y of one group with utilities v = t_u . scores: with
   D = (v(x) - v(y)) / temperature, the first wins with probability s(D - tie_width), the second with s(-D - tie_width)
   (s the logistic function), else it is a tie (Rao and Kupper 1967 with their theta = exp(tie_width)).
5. The first `fleet` people train; the `newcomers` after them do not.

A model does not see the scorers: it must recover them from its own features of the texts. They are not the style
features of `edge_runtime.reward.style`, though a length is a length in any list.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from protocol.errors import PenchantError

_WORD = re.compile(r"[A-Za-z][A-Za-z'’]*")
_SENTENCE = re.compile(r"[.!?]+(?:\s|$)")
_LARGEST_SCORE = 3.0


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


WARM = _words(
    "love loves loved loving care cares caring kind kindness friend friends family families together thank thanks "
    "please hope hopes happy joy share sharing help helps helping support comfort gentle dear respect forgive "
    "understand understanding heart mother father mom dad parents child children baby smile"
)
CONCRETE = _words(
    "water bottle bottles school schools book books tv television house home car road food body hand hands eye eyes "
    "blood paper money clothes shirt uniform uniforms skirt computer screen browser tree trees animal animals dog cat "
    "bus street city river island ship door room table chair bag plastic bed doctor teacher teachers class gun knife "
    "baby bible church picture pictures phone game games ball gym"
)
ABSTRACT_ENDINGS = ("tion", "sion", "ness", "ity", "ism", "ment", "ance", "ence", "ship", "hood", "acy")
INFORMAL = _words(
    "lol ok okay yeah yes nope hey guys guy kids stuff thing things gonna wanna gotta kinda cuz cause u ur r im dont "
    "cant wont doesnt isnt thats really just like pretty awesome cool dumb stupid crazy sucks hell damn lots wow bad"
)
POSITIVE = _words(
    "good great best better benefit benefits beautiful right success successful improve improves safe safer healthy "
    "enjoy fun easy free freedom honest useful valuable wonderful excellent win wins worth positive strong wise proud"
)
NEGATIVE = _words(
    "bad worse worst wrong hate hates harm harmful hurt hurts kill kills killed killing murder death die dies "
    "dead evil sick disease fails failure problem problems pain suffer danger dangerous fear poor abuse crime lie"
)
SELF = _words("i i'm i've i'd i'll me my mine myself we we're us our ours ourselves")
READER = _words("you you're you've you'd you'll your yours yourself yourselves u ur")


@dataclass(frozen=True)
class Reading:
    """A text taken apart once: its lower-case words and its number of sentences (at least one)."""

    text: str
    words: tuple[str, ...]
    sentences: int

    def rate(self, listed: frozenset[str]) -> float:
        """How many of a hundred words stand in the list."""
        return 100.0 * sum(word in listed for word in self.words) / max(1, len(self.words))


def read(text: str) -> Reading:
    """The text's words (apostrophes kept, straightened) and sentences."""
    words = tuple(word.lower().replace("’", "'") for word in _WORD.findall(text))
    return Reading(text, words, max(1, len(_SENTENCE.findall(text))))


def length(reading: Reading) -> float:
    """Log of the number of words."""
    return math.log1p(len(reading.words))


def formality(reading: Reading) -> float:
    """Long words (7 letters or more) for; informal words and contractions against."""
    long_words = 100.0 * sum(len(word) >= 7 for word in reading.words) / max(1, len(reading.words))
    contractions = 100.0 * sum("'" in word for word in reading.words) / max(1, len(reading.words))
    return long_words - 2.0 * reading.rate(INFORMAL) - 2.0 * contractions


def concreteness(reading: Reading) -> float:
    """Things that can be touched or seen, and numbers, against words with an abstract ending."""
    abstract = 100.0 * sum(len(w) > 6 and w.endswith(ABSTRACT_ENDINGS) for w in reading.words)
    numbers = 100.0 * len(re.findall(r"\b\d[\d.,%]*", reading.text))
    return reading.rate(CONCRETE) + (numbers - abstract) / max(1, len(reading.words))


def emphasis(reading: Reading) -> float:
    """Exclamation marks and words in capitals, per hundred words, on a log scale."""
    shouted = sum(len(word) > 2 and word.isupper() for word in _WORD.findall(reading.text))
    return math.log1p(100.0 * (reading.text.count("!") + shouted) / max(1, len(reading.words)))


SCORERS: Final[MappingProxyType[str, Callable[[Reading], float]]] = MappingProxyType(
    {
        "length": length,
        "formality": formality,
        "warmth": lambda reading: reading.rate(WARM),
        "concreteness": concreteness,
        "questions": lambda reading: math.log1p(100.0 * reading.text.count("?") / max(1, len(reading.words))),
        "self": lambda reading: reading.rate(SELF),
        "reader": lambda reading: reading.rate(READER),
        "sentiment": lambda reading: reading.rate(POSITIVE) - reading.rate(NEGATIVE),
        "emphasis": emphasis,
    }
)
# What everybody likes a little: substance, care, no shouting.
COMMON: Final = MappingProxyType({"length": 1.0, "formality": 0.5, "sentiment": 0.5, "emphasis": -0.5})


@dataclass(frozen=True)
class TasteRecipe:
    """The numbers of the recipe; the module's docstring says what each does."""

    seed: int = 0
    fleet: int = 1600
    newcomers: int = 400
    choices: int = 32
    held_out_choices: int = 24
    held_out_fraction: float = 0.3
    most_scorers: int = 4
    common_strength: float = 0.7
    own_strength: float = 2.5
    temperature: float = 1.0
    tie_width: float = 0.25

    def __post_init__(self) -> None:
        if min(self.fleet, self.choices, self.held_out_choices, self.most_scorers) < 1 or self.newcomers < 0:
            raise PenchantError("a taste recipe needs people, choices, held-out choices and scorers: at least 1 each")
        if self.most_scorers > len(SCORERS):
            raise PenchantError(f"there are {len(SCORERS)} scorers; set most_scorers to at most that")
        if not 0.0 < self.held_out_fraction < 1.0 or self.temperature <= 0.0 or self.tie_width < 0.0:
            raise PenchantError("set held_out_fraction in (0, 1), temperature above 0 and tie_width to 0 or more")


@dataclass(frozen=True)
class TastePerson:
    """A simulated person: taste (scorers,), pairs (m, 2) of text numbers, outcomes (m,) in {1 first, 0 second, 0.5}."""

    name: str
    taste: np.ndarray
    pairs: np.ndarray
    outcomes: np.ndarray
    held_out_pairs: np.ndarray
    held_out_outcomes: np.ndarray


def score_texts(texts: Sequence[str]) -> np.ndarray:
    """(texts, scorers): every scorer over every text, standardised over these texts and cut at +-3."""
    readings = [read(text) for text in texts]
    raw = np.array([[scorer(reading) for scorer in SCORERS.values()] for reading in readings], dtype=float)
    deviation = raw.std(axis=0)
    if len(texts) < 2 or not deviation.all():
        flat = [name for name, value in zip(SCORERS, deviation, strict=True) if not value]
        raise PenchantError(f"these texts are too few or too alike to score: nothing varies in {', '.join(flat)}")
    scores: np.ndarray = np.clip((raw - raw.mean(axis=0)) / deviation, -_LARGEST_SCORE, _LARGEST_SCORE)
    return scores


def draw_taste(recipe: TasteRecipe, random: np.random.Generator) -> np.ndarray:
    """(scorers,): a person's taste, the common part included."""
    names = list(SCORERS)
    common = np.array([COMMON.get(name, 0.0) for name in names])
    own = np.zeros(len(names))
    count = int(random.integers(1, recipe.most_scorers + 1))
    chosen = random.choice(len(names), size=count, replace=False)
    own[chosen] = random.choice([-1.0, 1.0], size=count) * random.uniform(0.5, 1.5, size=count)
    taste: np.ndarray = recipe.common_strength * common / np.linalg.norm(
        common
    ) + recipe.own_strength * own / np.linalg.norm(own)
    return taste


def draw_outcomes(
    utilities: np.ndarray, pairs: np.ndarray, recipe: TasteRecipe, random: np.random.Generator
) -> np.ndarray:
    """(m,) outcomes of `pairs` (m, 2) for a person to whom the texts are worth `utilities` (texts,)."""
    difference = (utilities[pairs[:, 0]] - utilities[pairs[:, 1]]) / recipe.temperature
    first = 1.0 / (1.0 + np.exp(recipe.tie_width - difference))
    second = 1.0 / (1.0 + np.exp(recipe.tie_width + difference))
    drawn = random.random(len(pairs))
    outcomes: np.ndarray = np.where(drawn < first, 1.0, np.where(drawn < first + second, 0.0, 0.5))
    return outcomes


def draw_pairs(groups: Sequence[np.ndarray], count: int, random: np.random.Generator) -> np.ndarray:
    """(count, 2) text numbers: each row two different texts of one group, groups equally likely."""
    return np.array(
        [random.choice(groups[int(random.integers(len(groups)))], size=2, replace=False) for _ in range(count)]
    )


def split_texts(
    groups: Sequence[str], recipe: TasteRecipe, random: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(training texts, held-out texts) of every group: text numbers, disjoint. `groups[i]` is text i's group."""
    names = np.asarray(groups)
    training, held_out = [], []
    for name in sorted(set(groups)):
        members = random.permutation(np.flatnonzero(names == name))
        cut = round(len(members) * recipe.held_out_fraction)
        if cut < 2 or len(members) - cut < 2:
            raise PenchantError(f"group {name} has {len(members)} texts: too few to hold some out and pair the others")
        held_out.append(members[:cut])
        training.append(members[cut:])
    return training, held_out


def simulate_people(texts: Sequence[str], groups: Sequence[str], recipe: TasteRecipe) -> list[TastePerson]:
    """The population, fleet first. The same texts, groups and recipe give the same people on every machine."""
    if len(texts) != len(groups):
        raise PenchantError(f"{len(texts)} texts but {len(groups)} groups: give every text its group")
    scores = score_texts(texts)
    training, held_out = split_texts(groups, recipe, np.random.default_rng([recipe.seed, 0]))
    people = []
    for number in range(recipe.fleet + recipe.newcomers):
        random = np.random.default_rng([recipe.seed, 1, number])
        taste = draw_taste(recipe, random)
        utilities = scores @ taste
        pairs = draw_pairs(training, recipe.choices, random)
        held_out_pairs = draw_pairs(held_out, recipe.held_out_choices, random)
        people.append(
            TastePerson(
                f"taste-{number:05d}",
                taste,
                pairs,
                draw_outcomes(utilities, pairs, recipe, random),
                held_out_pairs,
                draw_outcomes(utilities, held_out_pairs, recipe, random),
            )
        )
    return people
