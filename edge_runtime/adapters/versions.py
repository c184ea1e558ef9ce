"""What the versions of a device's adapter did for their owner: held-out losses compared, and feedback watched.

**Comparison.** A version keeps the losses of the texts that it was judged on, under digests of the texts. Two versions
are compared on the texts that both were judged on, each text against itself.

**Watch.** An answer is *unwelcome* if it was thumbed down or its owner put other words in its place. While a version is
live, the share of unwelcome answers among all answers given with it is compared with that of its parent (what was live
before it, or the model alone) by Fisher's exact test, one-sided (Fisher 1935):

    p = P(X >= x),  X ~ Hypergeometric(n + m answers, x + y of them unwelcome, n drawn)

with x of n answers unwelcome under the version and y of m under its parent. It is looked at when 20, 40, 80 ...
answers have been given with it, and only these first answers count; look k = 0, 1, ... spends the level
``LEVEL / 2^(k + 1)``, so however often somebody asks, a version that is as good as its parent goes with a probability
of at most ``LEVEL`` (union bound). A look needs 20 answers of the parent too. Who begins to judge every answer makes
more of them unwelcome whatever the version: a version also has to fare no better among the answers that were judged at
all (thumbs either way, edits).

A version that fails is rolled back to its parent, and the reason is written into its note; who asked for the look gets
it to show. Its owner has the last word: a version that they put back is not watched again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cbor2
import numpy as np

from edge_runtime.adapters.log import AdapterLog, AdapterVersion
from edge_runtime.answering.conversations import Conversations, Turn
from edge_runtime.feedback.feedback import Feedback
from edge_runtime.memory.statements import content_digest, utc_now
from edge_runtime.store.vault import LEARNT_PREFIX, Vault
from protocol.errors import PenchantError

LEVEL: Final = 0.05
FIRST_LOOK: Final = 20  # answers with the version, and with its parent, before anything is said
FEWEST_COMPARED: Final = 5  # texts that both versions were judged on, for an interval
_RESAMPLES: Final = 4000
_ALONE: Final = "the model alone"
_STEPS: Final = (
    "CREATE TABLE adapter_looks (id INTEGER PRIMARY KEY AUTOINCREMENT, adapter_id INTEGER NOT NULL, "
    "looked_at TEXT NOT NULL, answers INTEGER NOT NULL, unwelcome INTEGER NOT NULL, parent_answers INTEGER NOT NULL, "
    "parent_unwelcome INTEGER NOT NULL, p REAL NOT NULL, level REAL NOT NULL, rolled_back INTEGER NOT NULL)",
)


@dataclass(frozen=True)
class Comparison:
    """Two versions on the ``texts`` that both were judged on. Losses are nats per token, means over the texts;
    ``gain`` is first - second (above zero: the second is better), ``low`` and ``high`` its 95 % bootstrap interval over
    the texts, None if there are fewer than ``FEWEST_COMPARED``.
    """

    first: int | None
    second: int | None
    texts: int
    first_loss: float
    second_loss: float
    gain: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Tally:
    """Answers given with one version, in their order: which of them were ``unwelcome``, and which ``judged`` at all."""

    unwelcome: tuple[bool, ...]
    judged: tuple[bool, ...]

    @property
    def answers(self) -> int:
        return len(self.unwelcome)

    @property
    def failures(self) -> int:
        """How many were unwelcome."""
        return sum(self.unwelcome)

    @property
    def judged_share(self) -> float:
        """Unwelcome among the judged, 0 if none was judged."""
        return self.failures / max(1, sum(self.judged))

    def first(self, count: int) -> Tally:
        """The first ``count`` answers."""
        return Tally(self.unwelcome[:count], self.judged[:count])


@dataclass(frozen=True)
class RollBack:
    """``version`` was taken back: what is live now (``to``; None: the model alone), and why, in one line."""

    version: int
    to: int | None
    reason: str


def record_losses(vault: Vault, version_id: int | None, losses: Mapping[str, float]) -> None:
    """Keep the held-out losses of a version (None: of the model alone), {digest of a text: nats per token}, beside
    those that it has. They are part of what was learnt: a forget drops them.
    """
    with vault.transaction():
        vault.put_blob(_losses_name(version_id), cbor2.dumps(_losses(vault, version_id) | dict(losses), canonical=True))


def compare(vault: Vault, first: int | None, second: int | None) -> Comparison:
    """Compare two versions (None: the model alone); PenchantError if there is nothing to compare them by."""
    log = AdapterLog(vault)
    for number in (first, second):
        if number is not None:
            log.version(number)
    before, after = _losses(vault, first), _losses(vault, second)
    shared = sorted(set(before) & set(after))
    if not shared:
        raise PenchantError(
            f"{_name(first)} and {_name(second)} were never judged on the same texts: `penchant train` judges a new "
            "version and the live one on the same"
        )
    old = np.array([before[digest] for digest in shared])
    new = np.array([after[digest] for digest in shared])
    low = high = None
    if len(shared) >= FEWEST_COMPARED:
        drawn = np.random.default_rng(0).integers(0, len(shared), (_RESAMPLES, len(shared)))
        low, high = (float(end) for end in np.quantile((old - new)[drawn].mean(axis=1), (0.025, 0.975)))
    gain = float((old - new).mean())
    return Comparison(first, second, len(shared), float(old.mean()), float(new.mean()), gain, low, high)


def fisher_exact(failures: int, count: int, parent_failures: int, parent_count: int) -> float:
    """One-sided p-value that the first share is the higher one (see the top of this file), in exact integers."""
    total, drawn = failures + parent_failures, count
    tail = sum(
        math.comb(total, x) * math.comb(count + parent_count - total, drawn - x)
        for x in range(failures, min(total, drawn) + 1)
    )
    return tail / math.comb(count + parent_count, drawn)


def watch(vault: Vault, conversations: Conversations, feedback: Feedback) -> RollBack | None:
    """Look at the live version if a look is due, and roll it back if it fails (who called must show what is returned).

    Call it after every piece of feedback; a call when no look is due changes nothing.
    """
    vault.migrate("adapter_looks", _STEPS)
    log = AdapterLog(vault)
    version = next((one for one in log.versions() if one.live and one.held), None)
    if version is None:
        return None
    with vault.transaction() as connection:
        done, failed = connection.execute(
            "SELECT count(*), coalesce(max(rolled_back), 0) FROM adapter_looks WHERE adapter_id = ?", (version.id,)
        ).fetchone()
        parent = log.version(version.parent_id) if version.parent_id is not None else None
        if failed or (parent is not None and parent.sha256 == version.sha256):
            return None
        mine, theirs = _tallies(conversations, feedback, version, parent)
        due = FIRST_LOOK * 2**done
        if mine.answers < due or theirs.answers < FIRST_LOOK:
            return None
        seen, level = mine.first(due), LEVEL / 2 ** (done + 1)
        p = fisher_exact(seen.failures, seen.answers, theirs.failures, theirs.answers)
        worse = p <= level and seen.judged_share >= theirs.judged_share
        connection.execute(
            "INSERT INTO adapter_looks (adapter_id, looked_at, answers, unwelcome, parent_answers, parent_unwelcome, "
            "p, level, rolled_back) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (version.id, utc_now(), seen.answers, seen.failures, theirs.answers, theirs.failures, p, level, worse),
        )
        if not worse:
            return None
        to = parent.id if parent is not None and parent.held else None
        log.use(to)
        reason = (
            f"rolled back on {utc_now()[:10]} to {_name(to)}: of its first {seen.answers} answers {seen.failures} were "
            f"thumbed down or edited, with {_name(version.parent_id)} it was {theirs.failures} of {theirs.answers} "
            f"(Fisher's exact test, p = {p:.2g}, level {level:.2g})"
        )
        log.annotate(version.id, reason)
    return RollBack(version.id, to, reason)


def _tallies(
    conversations: Conversations, feedback: Feedback, version: AdapterVersion, parent: AdapterVersion | None
) -> tuple[Tally, Tally]:
    """The answers that the version and its parent gave on the version's base model.

    An answer belongs to a version if its audit names that adapter and no other; answers without an audit (merged from
    another device) belong to none.
    """
    own, before = version.sha256, parent.sha256 if parent and "answers" in parent.serves else _ALONE
    thumbs = {rating.turn: rating.up for rating in feedback.ratings()}
    replaced = {content_digest(choice.prompt, choice.rejected) for choice in feedback.preferences()}
    given: dict[str, list[tuple[int, bool, bool]]] = {own: [], before: []}
    for conversation in conversations.listing():
        question = ""
        for turn in conversations.turns(conversation.id):
            if turn.role == "user":
                question = turn.text
                continue
            edited = content_digest(question, turn.text) in replaced
            row = (turn.id, edited or thumbs.get(turn.id) is False, edited or turn.id in thumbs)
            if (who := _given_with(turn, version.base_sha256)) in given:
                given[who].append(row)
    return _tally(given[own]), _tally(given[before])


def _tally(rows: list[tuple[int, bool, bool]]) -> Tally:
    """Rows (turn, unwelcome, judged) in the order of the turns."""
    rows.sort()
    return Tally(tuple(unwelcome for _, unwelcome, _ in rows), tuple(judged for _, _, judged in rows))


def _given_with(turn: Turn, base_sha256: str) -> str:
    """The digest of the one adapter that an answer was given with, or ``_ALONE``; "" if that is not known."""
    audit: dict[str, Any] = turn.audit or {}
    adapters: Sequence[dict[str, Any]] | None = audit.get("adapters")
    if adapters is None or audit.get("model_sha256") != base_sha256 or len(adapters) > 1:
        return ""
    return str(adapters[0]["sha256"]) if adapters else _ALONE


def _losses(vault: Vault, version_id: int | None) -> dict[str, float]:
    stored = vault.get_blob(_losses_name(version_id))
    return dict(cbor2.loads(stored)) if stored else {}


def _losses_name(version_id: int | None) -> str:
    return f"{LEARNT_PREFIX}adapter-losses/{version_id or 'base'}"


def _name(version_id: int | None) -> str:
    return _ALONE if version_id is None else f"adapter {version_id}"
