"""The gate: whether one adapter surely predicts a person's held-out texts better than another, text by text.

Texts that no training saw are scored by llama.cpp on the file that serves, under what serves now and under the
candidate, behind the prompt that serving would have built for them (``client.served_prompts``: with retrieval), and,
shown beside it, without notes. Only the losses with retrieval decide: an adapter that repeats what memory says anyway
is no gain.

Tasks are judged apart, messages for drafts and preferred answers for answers: an adapter serves the tasks on which it
is surely better than the model alone, and goes live if it is surely better than what serves one of them now and none
that is served now is lost. A task of which nothing is held out stays with the candidate if what is live serves it, and
with the model alone otherwise.

Test. With d_ij = before - after (nats) at token j of text i, n_i tokens and d_i their mean,

    d_ij = m + a_i + e_ij,     Var(a_i) = s^2 / N_0,   Var(e_ij) = s^2        (random effects of texts)
    w_i  = 1 / (1 / n_i + 1 / N_0),    m^ = sum w_i d_i / sum w_i,    SE^2 = s~^2 / sum w_i

A longer text says more, but no more than ``N_0`` tokens would: texts differ. The variance s^2 is seen twice, between
the texts (n - 1 degrees of freedom) and within them, and the second is pooled in with the weight of ``NU_0``
degrees (the moderated variance of Smyth 2004, doi 10.2202/1544-6115.1027, with the texts' own tokens as the prior), as
long as that does not make it smaller than what lies between the texts (one lucky text would pass):

    s_between^2 = sum w_i (d_i - m^)^2 / (n - 1)
    s~^2 = max( s_between^2, ((n - 1) s_between^2 + NU_0 s_within^2) / (n - 1 + NU_0) )

The gain is sure if  m^ - t(0.9; n - 1 + NU_0) SE > -margin:  one-sided, and about one in ten candidates that are worse
by the margin passes. ``simulations.studies.gate`` says how often this errs, beside Student's t over texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from typing import Final, TypeVar

import cbor2
import numpy as np
from numpy.typing import NDArray

from client.device_profile import MAX_TOKENS
from client.examples import Example, choice_example, message_example
from client.served_prompts import served_choice, served_message
from edge_runtime.adapters.log import TASKS, Task
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.feedback.preferences import Preference
from edge_runtime.memory.statements import MemoryItem
from protocol.errors import PenchantError

CONFIDENCE: Final = 0.9
TEXT_TOKENS: Final = 100.0  # N_0
PRIOR_DEGREES: Final = 10.0  # NU_0
SCORING_CONTEXT: Final = 1024

TokenLosses = Sequence[NDArray[np.float64]]  # nats of each token (n_i,), text by text
Item = TypeVar("Item")


@dataclass(frozen=True)
class GateDecision:
    """Whether a candidate passed, and why. Nats per token: ``before`` and ``after`` are weighted means over ``texts``
    texts, ``gain`` is what the second is lower by and ``gain_low`` the lower end of its one-sided 90 % interval, which
    must lie above ``-margin``.
    """

    texts: int
    before: float
    after: float
    gain: float
    gain_low: float
    margin: float = 0.0

    @property
    def accepted(self) -> bool:
        return self.gain_low > -self.margin


def decide(before: TokenLosses, after: TokenLosses, *, margin: float = 0.0) -> GateDecision:
    """Compare the losses of the same texts, in the same order (see the top of this file).

    ``margin`` (nats per token, 0 or more) is what the candidate may be worse by. One text bounds nothing: the lower end
    is minus infinity. Where a text is one number (its mean), s~ rests on the differences between texts alone.
    """
    tokens = [one - other for one, other in zip(before, after, strict=True)]
    counts = np.array([len(text) for text in tokens], dtype=np.float64)
    weights = 1.0 / (1.0 / counts + 1.0 / TEXT_TOKENS)  # (n,) w_i
    shares = weights / weights.sum()
    loss_before, loss_after = (float(shares @ [text.mean() for text in part]) for part in (before, after))
    gain, low, degrees = loss_before - loss_after, -math.inf, len(counts) - 1.0
    if degrees > 0:
        from scipy import stats

        spread = float(weights @ (np.array([text.mean() for text in tokens]) - gain) ** 2) / degrees
        if free := float((counts - 1).sum()):
            prior = min(PRIOR_DEGREES, free)
            within = sum(float(((text - text.mean()) ** 2).sum()) for text in tokens) / free
            spread = max(spread, (degrees * spread + prior * within) / (degrees + prior))
            degrees += prior
        error = math.sqrt(spread / float(weights.sum()))
        low = gain - float(stats.t.ppf(CONFIDENCE, degrees)) * error
    return GateDecision(len(counts), loss_before, loss_after, gain, low, margin)


@dataclass(frozen=True)
class HeldOutText:
    """One text of a task that no training saw: behind the prompt that serving builds, and behind the plain one."""

    task: Task
    served: Example
    plain: Example

    @property
    def name(self) -> str:
        """Digest of the text and its prompt: what a version's losses are kept under."""
        return sha256(cbor2.dumps([list(self.served.tokens), self.served.prompt_length])).hexdigest()


@dataclass(frozen=True)
class Verdict:
    """By task, with retrieval: the candidate against what ``served`` the task before, and against the model ``alone``.
    ``plain`` (all texts without notes, against what served them) is shown beside it. ``before``: the tasks that what is
    live serves. Losses are {name of a text: nats per token} with retrieval; of what is live, on the texts it serves.
    """

    served: Mapping[Task, GateDecision]
    alone: Mapping[Task, GateDecision]
    plain: GateDecision
    before: tuple[Task, ...]
    live_losses: Mapping[str, float]
    alone_losses: Mapping[str, float]
    candidate_losses: Mapping[str, float]

    @property
    def serves(self) -> tuple[Task, ...]:
        """The tasks that the candidate is fit to serve."""
        return tuple(
            task for task in TASKS if (self.alone[task].accepted if task in self.alone else task in self.before)
        )

    @property
    def lost(self) -> tuple[Task, ...]:
        """The tasks that are served now and would not be by the candidate."""
        return tuple(task for task in self.before if task not in self.serves)

    @property
    def accepted(self) -> bool:
        """Whether the candidate goes live."""
        return any(self.served[task].accepted for task in self.serves if task in self.served) and not self.lost


def split_newest(items: Sequence[Item], parts: int = 4, most: int | None = None) -> tuple[list[Item], list[Item]]:
    """(older ones, newest ``parts``-th, rounded up, ``most`` at most) of items in the order of their dates.

    A single item is trained on: a kind of text of which there is nothing else says nothing about itself.
    """
    held_out = -(-len(items) // parts) if len(items) > 1 else 0
    cut = len(items) - min(held_out, len(items) if most is None else most)
    return list(items[:cut]), list(items[cut:])


def held_out_texts(
    engine: Engine, device: Device, messages: Iterable[MemoryItem], choices: Iterable[Preference]
) -> list[HeldOutText]:
    """These messages and choices as the gate reads them; those whose request alone fills the context are left out."""
    room, memory = SCORING_CONTEXT - MAX_TOKENS, device.memory
    made = chain(
        (
            HeldOutText("drafts", served_message(engine, memory, item, room=room), message_example(engine, item))
            for item in messages
        ),
        (
            HeldOutText("answers", served_choice(engine, memory, item, room=room), choice_example(engine, item))
            for item in choices
        ),
    )
    return [text for text in made if text.served.prompt_length <= room]


def token_losses(
    engine: Engine,
    examples: Sequence[Example],
    adapter: bytes | None,
    on_text: Callable[[], None] = lambda: None,
) -> list[NDArray[np.float64]]:
    """Nats of each token of each text, its first ``MAX_TOKENS``, under an adapter (None: the model alone); ``on_text``
    is called after each."""
    loaded = engine.load_adapter(adapter, sha256=sha256(adapter).hexdigest()) if adapter else None
    engine.use_adapters([(loaded, 1.0)] if loaded else [])
    losses = []
    try:
        for example in examples:
            cut = example.prompt_length
            losses.append(-engine.score(example.tokens[:cut], [example.tokens[cut:][:MAX_TOKENS]])[0])
            on_text()
    finally:
        engine.use_adapters([])
        if loaded:
            engine.unload_adapter(loaded)
    return losses


def judge(
    engine: Engine,
    texts: Sequence[HeldOutText],
    live: bytes | None,
    candidate: bytes,
    on_progress: Callable[[float], None] = lambda fraction: None,
    *,
    serves: Collection[Task] = TASKS,
) -> Verdict:
    """The candidate against the model alone and against what is live (None: nothing is) for the tasks it ``serves``."""
    if not texts:
        raise PenchantError("none of the held-out texts fits the context behind its request: shorten their requests")
    held = {task: [text for text in texts if text.task == task] for task in TASKS}
    before = tuple(task for task in TASKS if live is not None and task in serves)
    passes, done = 4 * len(texts) + sum(len(held[task]) for task in before), 0

    def scored(examples: Sequence[Example], adapter: bytes | None) -> TokenLosses:
        return token_losses(engine, examples, adapter, one_more)

    def one_more() -> None:
        nonlocal done
        done += 1
        on_progress(done / passes)

    served: dict[Task, GateDecision] = {}
    alone: dict[Task, GateDecision] = {}
    kept: list[dict[str, float]] = [{}, {}, {}]  # of what is live, the model alone, the candidate
    bare: tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]] = [], []
    for task, own in held.items():
        if not own:
            continue
        prompts, now = [text.served for text in own], live if task in before else None
        bases, after = scored(prompts, None), scored(prompts, candidate)
        current = bases if now is None else scored(prompts, now)
        served[task], alone[task] = decide(current, after), decide(bases, after)
        for known, losses in zip(kept, (() if now is None else current, bases, after), strict=True):
            known |= {text.name: float(loss.mean()) for text, loss in zip(own, losses, strict=False)}
        for part, adapter in zip(bare, (now, candidate), strict=True):
            part.extend(scored([text.plain for text in own], adapter))
    return Verdict(served, alone, decide(*bare), before, *kept)
