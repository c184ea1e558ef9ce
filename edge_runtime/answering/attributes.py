"""Attributes of an answer that the model itself can tell apart, and how much a person likes each (Drift).

An attribute is one sentence that asks for it. How much of attribute a an answer y has is read off the model, which is
not trained for it (Kim et al., "Drift: Decoding-time Personalized Alignments with Implicit User Preferences", 2025):

    r_a(y) = mean over the tokens of y of  log p(token | request, sentence of a) - log p(token | request)

The sentence stands at the end of the request and not in a system prompt of its own, so that everything before it is
evaluated once for all attributes.

From a person's choices come weights w (A,), one number per attribute, which `steering.py` steers by:

- `drift_weights`: without training. The mean difference of r_a between what was chosen and what was not, in units of
  its own size, divided by its norm over the attributes (the paper's normalisation); here each is also shrunk by the
  share that chance explains (James and Stein), so that few or contradictory choices steer little.
- `bayes_weights`: the most probable weights under the choice model and prior of all private weights
  (`protocol.reward_model`), of norm 1 at most.

Neither may mistake a taste for short answers for one for a style: the difference in length is taken out of the
differences first, or stands in the fit beside them and is dropped.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.answering.answering import lay_out
from edge_runtime.answering.guard import as_data
from edge_runtime.engine.chat_template import ChatMessage
from protocol.bank import Bank
from protocol.reward_model import Choices, fit_weights

if TYPE_CHECKING:
    from edge_runtime.engine.engine import Engine

Array = NDArray[np.float64]
# The prior of a weight on length is wide: what it were shrunk by would be taken for a taste that goes with length.
_LENGTH_SPREAD: Final = 10.0
# Of an answer its first tokens: they tell its style, and every attribute reads them again.
JUDGED_TOKENS: Final = 32


@dataclass(frozen=True)
class Attribute:
    """`name` for people, `sentence` for the model."""

    name: str
    sentence: str


ATTRIBUTES: Final = (
    Attribute("concise", "Answer in as few words as possible."),
    Attribute("detailed", "Answer at length and in detail."),
    Attribute("formal", "Answer in formal, polished language."),
    Attribute("casual", "Answer casually, as friends chat."),
    Attribute("warm", "Answer warmly and with sympathy."),
    Attribute("matter-of-fact", "Answer coolly, with facts only."),
    Attribute("examples", "Answer with concrete examples and numbers."),
    Attribute("questions", "Answer with a question in return."),
)
_SPACE: Final = hashlib.sha256("\n".join(one.sentence for one in ATTRIBUTES).encode()).hexdigest()


def asking_for(messages: Sequence[ChatMessage], attribute: Attribute) -> list[ChatMessage]:
    """`messages` whose last turn, the request, also asks for the attribute."""
    *before, request = messages
    return [*before, replace(request, content=f"{request.content}\n{attribute.sentence}")]


def log_ratios(engine: Engine, request: str, answers: Sequence[str]) -> Array:
    """r_a of each answer to `request`: (answers, ATTRIBUTES), nats per token; PenchantError if one is empty."""
    messages = lay_out(as_data(engine, request), [])
    texts = [engine.tokenise(answer, special=False)[:JUDGED_TOKENS] for answer in answers]

    def means(prompt: Sequence[ChatMessage]) -> Array:
        prefix = engine.tokenise(engine.chat_prompt(prompt))
        return np.array([float(logs.mean()) for logs in engine.score(prefix, texts)])

    plain = means(messages)
    return np.stack([means(asking_for(messages, one)) - plain for one in ATTRIBUTES], axis=1)


def drift_weights(differences: Array, longer: Array) -> Array:
    """(A,) from `differences` (m, A), r of the chosen answer minus r of the other one, and `longer` (m,), the same of
    the logarithm of their lengths. Norm 1 at most; zeros without choices.
    """
    count = len(differences)
    if not count:
        return np.zeros(differences.shape[1])
    apart = without_length(differences, longer)
    effect = apart.mean(axis=0) / _sizes(apart)
    chance = 1.0 / np.maximum(count * np.square(effect), 1.0)
    norm = float(np.linalg.norm(effect))
    weights: Array = effect * (1.0 - chance) / norm if norm else effect
    return weights


def bayes_weights(differences: Array, longer: Array) -> Array:
    """(A,) from the same, as the posterior's mode under a standard normal prior on standardised differences; with the
    length in the model, and without its weight. Norm 1 at most; zeros without choices.
    """
    count, attributes = differences.shape
    if not count:
        return np.zeros(attributes)
    features = np.column_stack([differences, longer])
    features = features / _sizes(features)
    size = attributes + 1
    spread = np.append(np.ones(attributes), _LENGTH_SPREAD)
    bank = Bank("reward", _SPACE, np.zeros(size), np.eye(size), spread, np.zeros((0, size)))
    weights = fit_weights(Choices(features, np.ones(count)), bank).weights[:attributes]
    return weights / max(1.0, float(np.linalg.norm(weights)))


def without_length(differences: Array, longer: Array) -> Array:
    """(m, k) `differences` less what the difference in length, `longer` (m,), says of them: orthogonal to it."""
    return differences - np.outer(longer, length_slopes(differences, longer))


def length_slopes(differences: Array, longer: Array) -> Array:
    """(k,): by how much each column of `differences` (m, k) rises with `longer` (m,), by least squares through 0 (which
    answer of a pair stands first says nothing).
    """
    total = float(longer @ longer)
    slopes: Array = longer @ differences / total if total else np.zeros(differences.shape[1])
    return slopes


def log_length(text: str) -> float:
    """The logarithm of one more than the number of words."""
    return math.log1p(len(text.split()))


def _sizes(differences: Array) -> Array:
    """Root mean square of each column; 1 where it is 0."""
    sizes = np.sqrt(np.mean(np.square(differences), axis=0))
    return np.where(sizes > 0, sizes, 1.0)
