"""From a question to an answer that says where it came from: retrieve, rank, summarise, synthesise, generate.

The five stages are those of Li et al., "Teach LLMs to Personalize" (2023); each is a pure function in a file of its
own and can be switched off. What differs from the paper serves a small model: summary and synthesis are made without
it, and a planner leaves sources out that would only disturb it.

    rewrite     a follow-up question becomes searchable             rewriting.py
    retrieve    memories and passages that match                    memory/memory.py
    plan        none, profile, memory, documents                    planner.py
    rank        few, about the question, each once                  evidence.py
    summarise   profile lines; long notes as their telling part     gist.py
    synthesise  one line of key words before the question           gist.py
    generate    the prompt's layout; whole sentences                answering.py, lengths.py
                by the owner's taste, if asked for                  best_of.py, steering.py,
                                                                    guiding.py
                behind the owner's soft token, if asked for         user_vector.py

Ablation on 24 questions about the village (12 people), nats per token of the right answer with the bundled model: all
stages 1.94; without synthesis 2.03; then also without ranking 2.02 or without summaries 2.02 (both within the error:
they keep the prompt short); without retrieval 4.13.

Everything recalled is data (guard.py): it reaches the prompt as notes, on one line each and without control tokens,
and what the model makes of it is never stored as a memory.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_runtime.answering.answering import beginning, lay_out
from edge_runtime.answering.audit import Audit
from edge_runtime.answering.best_of import MOST_CANDIDATES, best_of
from edge_runtime.answering.citing import notes_behind
from edge_runtime.answering.evidence import Evidence, drop, gather, rank
from edge_runtime.answering.gist import gist, key_line
from edge_runtime.answering.guard import as_data, as_note
from edge_runtime.answering.guiding import guided
from edge_runtime.answering.lengths import whole_sentences
from edge_runtime.answering.planner import Plan, drop_unplanned, plan_sources, recall_floor
from edge_runtime.answering.rewriting import rewrite
from edge_runtime.answering.steering import PROMPTS, steered
from edge_runtime.answering.user_vector import UserVector, installed_projection
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.sampling import Sampling
from edge_runtime.profile.profile import ProfileLine
from edge_runtime.reward.taste import LARGEST_STRENGTH, Taste
from protocol.errors import PenchantError

if TYPE_CHECKING:
    from edge_runtime.device import Device
    from edge_runtime.engine.engine import Engine

DEFAULT_MEMORIES: Final = 3
DEFAULT_ANSWER_TOKENS: Final = 160
# Greedy: what is remembered should be repeated the same way each time. A model this small then loops on its own words
# unless repeating costs something; the prompt's words, the remembered names among them, cost nothing.
DEFAULT_SAMPLING: Final = Sampling(temperature=0.0, repeat_penalty=1.1)
_CANDIDATES_PER_MEMORY: Final = 4
_PROFILE_LINES: Final = 4
_ENTITIES: Final = 2


@dataclass(frozen=True)
class Stages:
    """Which stages run; without `personalise` the model answers as if nothing were known about its owner."""

    retrieve: bool = True
    rank: bool = True
    summarise: bool = True
    synthesise: bool = True
    personalise: bool = True


@dataclass(frozen=True)
class AnswerOptions:
    """How an answer is made: at most `k` memories and passages, `max_tokens` and, if given, `sentences` of answer;
    `as_of` (ISO date) answers from what was known that day.

    Of `best_of` answers the one is given that the owner would like best (`best_of.py`); `steer` above 0 leans every
    token towards attributes that they like (`steering.py`; 1 is usual), `guide` chooses tokens by their reward
    (`guiding.py`; 0.5 is usual). One of them at a time; none does anything where taste is switched off.
    `user_vector` puts the owner's soft token before the prompt (`user_vector.py`).
    """

    stages: Stages = Stages()
    k: int = DEFAULT_MEMORIES
    max_tokens: int = DEFAULT_ANSWER_TOKENS
    sampling: Sampling = DEFAULT_SAMPLING
    as_of: str | None = None
    sentences: int | None = None
    best_of: int = 1
    steer: float = 0.0
    guide: float = 0.0
    user_vector: bool = False

    def __post_init__(self) -> None:
        if self.k < 0 or self.max_tokens < 1 or (self.sentences is not None and self.sentences < 1):
            raise PenchantError("An answer needs k of 0 or more, and max_tokens and sentences of 1 or more.")
        strengths = (self.steer, self.guide)
        if not 1 <= self.best_of <= MOST_CANDIDATES or not all(0 <= one <= LARGEST_STRENGTH for one in strengths):
            raise PenchantError(
                f"best_of lies between 1 and {MOST_CANDIDATES}, steer and guide between 0 and {LARGEST_STRENGTH:g}."
            )
        if (self.best_of > 1) + (self.steer > 0) + (self.guide > 0) > 1:
            raise PenchantError(
                "An answer is the best of several, steered or guided: use one of best_of, steer, guide."
            )
        if self.user_vector and self.by_taste:
            raise PenchantError("The user vector goes with plain answers: leave best_of, steer and guide out.")

    @property
    def by_taste(self) -> bool:
        """Whether the owner's taste is asked for."""
        return self.best_of > 1 or self.steer > 0 or self.guide > 0


@dataclass(frozen=True)
class Source:
    """Something the model was shown: "memory:12", "attribute:3", "rule:1", "summary:general"; `score` is 0 and
    `said_at` empty for the profile."""

    id: str
    text: str
    said_at: str
    score: float
    kind: str


@dataclass(frozen=True)
class AnswerStream:
    """An answer in the making: `sources` are known at once, best first; `pieces` yields text as it is generated.
    Closing it stops the decode and keeps what came; `audit` is complete after the last piece."""

    sources: tuple[Source, ...]
    pieces: Generator[str, None, None]
    audit: Audit

    @property
    def turn_id(self) -> int | None:
        """The turn of the answer, after the last piece, if a conversation keeps it."""
        return self.audit.turn_id


@dataclass
class _Draft:
    """What the stages before generation have put together."""

    question: str
    earlier: list[ChatMessage]
    system: str
    audit: Audit
    notes: list[tuple[Source, str]] = field(default_factory=list)  # best first, with the line that is shown
    profile: list[tuple[Source, str]] = field(default_factory=list)
    rules: list[tuple[Source, str]] = field(default_factory=list)
    key_line: str = ""
    soft_prefix: NDArray[np.float32] | None = None

    def messages(self) -> list[ChatMessage]:
        system = "\n".join([*([self.system] if self.system else []), *(line for _, line in self.rules)])
        # Notes are written best last, so what is given last comes first in the prompt: the profile.
        notes = [line for _, line in [*self.notes, *reversed(self.profile)]]
        return lay_out(self.question, notes, earlier=self.earlier, system=system, key_line=self.key_line)

    def sources(self) -> tuple[Source, ...]:
        return tuple(source for source, _ in [*self.notes, *self.profile, *self.rules])


class Assistant:
    """Answers questions on one device with one engine. Like the engine, it serves one thread at a time."""

    def __init__(self, device: Device, engine: Engine) -> None:
        self._device, self._engine = device, engine

    def stream(
        self,
        question: str,
        *,
        conversation: str | None = None,
        earlier: Sequence[ChatMessage] = (),
        system: str = "",
        options: AnswerOptions = AnswerOptions(),
    ) -> AnswerStream:
        """Looks up at once and generates while `pieces` is read.

        `conversation` is the id of a kept conversation: both turns are added to it, and its turns come before the
        question unless `earlier` gives others. Earlier turns and then the weakest notes are left out until prompt and
        answer fit the context. PenchantError for an empty question or one that does not fit alone.
        """
        if not question.strip():
            raise PenchantError("The question is empty.")
        if conversation is not None:
            kept = [ChatMessage(turn.role, turn.text) for turn in self._device.conversations.turns(conversation)]
            earlier = earlier or kept
        engine = self._engine
        clean = [ChatMessage(turn.role, as_data(engine, turn.content)) for turn in earlier]
        audit = Audit(
            model_sha256=engine.model.sha256,
            adapters=[(adapter.sha256, scale) for adapter, scale in engine.active_adapters],
            sampling=asdict(options.sampling),
            stages=asdict(options.stages),
        )
        options = self._allowed(options)
        if options.by_taste:
            audit.sampling |= {"best_of": options.best_of, "steer": options.steer, "guide": options.guide}
        draft = _Draft(as_data(engine, question.strip()), clean, as_data(engine, system.strip()), audit)
        self._look_up(draft, options)
        if options.user_vector and options.stages.personalise:
            draft.soft_prefix = self._user_token(audit)
        # A steered answer is held once per prompt that steers it; several answers come after each other if need be.
        room = engine.context_tokens - options.max_tokens * (1 + PROMPTS if options.steer else 1)
        room -= 0 if draft.soft_prefix is None else len(draft.soft_prefix)
        prompt = self._fitted(draft, max(room, engine.context_tokens // 2) if options.steer else room)
        return AnswerStream(draft.sources(), self._generate(draft, prompt, question, conversation, options), audit)

    def _allowed(self, options: AnswerOptions) -> AnswerOptions:
        """`options` as the owner's settings allow them: taste off, or an impersonal answer, is the model's own. Where
        a reward is needed its weights are fitted now, so that what is missing is said at once."""
        if not options.by_taste:
            return options
        taste = Taste(self._device, self._engine)
        if not (options.stages.personalise and taste.settings.on):
            return replace(options, best_of=1, steer=0.0, guide=0.0)
        if options.best_of > 1:
            taste.fit()
        if options.guide:
            taste.token_head()
        return replace(options, steer=min(options.steer * taste.settings.strength, LARGEST_STRENGTH))

    def _user_token(self, audit: Audit) -> NDArray[np.float32]:
        projection = installed_projection(self._device)
        if projection is None:
            raise PenchantError("This device keeps no user projection of its fleet; ask without the user vector.")
        audit.sampling |= {"user_vector": projection.digest}
        vector = UserVector(self._device, projection, base_sha256=self._engine.model.sha256)
        return vector.soft_prefix(audit.query)

    # ---- the stages before generation

    def _look_up(self, draft: _Draft, options: AnswerOptions) -> None:
        """Rewrite, retrieve, plan, rank, summarise, synthesise: fills the draft and its audit."""
        audit, stages = draft.audit, options.stages
        with audit.timed("rewrite"):
            audit.query = rewrite(draft.question, draft.earlier)
        if not stages.personalise:
            audit.plan = Plan(("none",), "asked without personalisation")
            return
        candidates: list[Evidence] = []
        with audit.timed("retrieve"):
            if stages.retrieve and options.k:
                wide, floor = _CANDIDATES_PER_MEMORY * options.k, recall_floor(audit.query)
                found = self._device.memory.recall(audit.query, k=wide, as_of=options.as_of, floor=floor)
                candidates = gather(audit.query, found)
        with audit.timed("summarise"):
            lines = self._device.profile.prompt_lines(audit.query, limit=_PROFILE_LINES) if stages.summarise else []
            if stages.summarise and not candidates:  # how often it came up is then all that is known of it
                named = self._device.entities.for_question(audit.query)[:_ENTITIES]
                lines += [
                    ProfileLine(
                        f"entity:{one.id}", f"{one.name}: mentioned {one.count} times, last on {one.last_seen}."
                    )
                    for one in named
                ]
        with audit.timed("plan"):
            rules = [line for line in lines if line.id.startswith("rule:")]
            facts = [line for line in lines if line not in rules]
            audit.plan = plan_sources(audit.query, candidates, profile=bool(facts))
            candidates = drop_unplanned(candidates, audit.query, audit.plan)
        with audit.timed("rank"):
            if stages.rank:
                candidates = rank(candidates, k=options.k)
            else:
                planned = [one for one in candidates if one.kept]
                beyond = {one.id for one in planned[options.k :]}
                candidates = [
                    drop(one, f"beyond the {options.k} shown") if one.id in beyond else one for one in candidates
                ]
        audit.candidates = candidates
        with audit.timed("summarise"):
            for one in candidates:
                if one.kept:
                    text = gist(one.text, audit.query) if stages.summarise else one.text
                    source = Source(one.id, one.text, one.said_at, one.score, one.kind)
                    draft.notes.append((source, as_note(self._engine, text)))
            chosen = [*(facts if "profile" in audit.plan.sources else []), *rules]
            for line in chosen:
                shown = draft.rules if line in rules else draft.profile
                shown.append((Source(line.id, line.text, "", 0.0, "profile"), as_note(self._engine, line.text)))
            audit.profile = [(line.id, line.text) for line in chosen]
        with audit.timed("synthesise"):
            if stages.synthesise:
                draft.key_line = key_line([line for _, line in draft.notes], draft.question)

    def _fitted(self, draft: _Draft, room: int) -> list[int]:
        """The prompt's tokens, after leaving out old turns and then weak notes until they fit `room`."""
        engine, audit = self._engine, draft.audit
        with audit.timed("prompt"):
            while True:
                prompt = engine.tokenise(engine.chat_prompt(draft.messages()))
                if len(prompt) <= room or not (draft.earlier or draft.notes or draft.profile):
                    break
                if draft.earlier:
                    draft.earlier = draft.earlier[2:]
                elif draft.notes:
                    gone = draft.notes.pop()[0].id
                    audit.candidates = [
                        drop(one, "no room in the context") if one.id == gone else one for one in audit.candidates
                    ]
                else:
                    gone = draft.profile.pop()[0].id
                    audit.profile = [line for line in audit.profile if line[0] != gone]
            parts = {
                "earlier": "\n".join(turn.content for turn in draft.earlier),
                "profile": "\n".join(line for _, line in [*draft.profile, *draft.rules]),
                "notes": "\n".join(line for _, line in draft.notes),
                "key_line": draft.key_line,
                "question": draft.question,
            }
            counts = {name: len(engine.tokenise(text)) if text else 0 for name, text in parts.items()}
            audit.prompt_tokens = {"total": len(prompt), "layout": len(prompt) - sum(counts.values()), **counts}
        return prompt

    # ---- the last stage

    def _warm(self) -> None:
        """Brings back what the model computed for the beginning of every prompt with notes, or keeps it, encrypted: a
        new start of the program does not read it again."""
        engine, states = self._engine, self._device.states
        begun = engine.tokenise(engine.chat_prompt(beginning(), continue_assistant=False))
        if not engine.restore_prefix(states, begun):
            engine.save_prefix(states, begun)

    def _generate(
        self,
        draft: _Draft,
        prompt: list[int],
        question: str,
        conversation: str | None,
        options: AnswerOptions,
    ) -> Generator[str, None, None]:
        """Yields the answer and keeps the exchange; an answer that is broken off is kept as far as it came."""
        conversations, audit = self._device.conversations, draft.audit
        if conversation is not None:
            conversations.add(conversation, "user", question)
        if draft.notes and not draft.system and not draft.rules and draft.soft_prefix is None:
            self._warm()  # what is kept on disk was read without a token before it
        text, audit.stopped = "", True
        try:
            with audit.timed("generate"):
                for piece in self._pieces(draft, prompt, options):
                    text += piece
                    yield piece
            audit.stopped = False
        finally:
            audit.answer_tokens = len(self._engine.tokenise(text)) if text else 0
            shown = [(source.id, line) for source, line in [*draft.notes, *draft.profile]]
            audit.cited = notes_behind(text, draft.question, shown)
            if conversation is not None:
                audit.turn_id = conversations.add(conversation, "assistant", text.rstrip(), audit.to_dict()).id

    def _pieces(self, draft: _Draft, prompt: list[int], options: AnswerOptions) -> Generator[str, None, None]:
        """The answer's text; the best of several comes whole, after an empty piece per token, at each of which whoever
        serves may do something short or stop."""
        if options.best_of > 1:
            taste = Taste(self._device, self._engine)
            best = yield from best_of(
                self._engine,
                prompt,
                lambda answers: taste.rewards(draft.question, answers),
                taste.length_slope(),
                count=options.best_of,
                max_tokens=options.max_tokens,
                sampling=options.sampling,
                sentences=options.sentences,
            )
            yield best.text
            return
        limits: dict[str, Any] = {"max_tokens": options.max_tokens, "sampling": options.sampling}
        if options.steer:
            weights = Taste(self._device, self._engine).attribute_weights()
            raw = steered(self._engine, draft.messages(), weights, options.steer, **limits)
        elif options.guide:
            head = Taste(self._device, self._engine).token_head()
            raw = guided(self._engine, prompt, head, options.guide, **limits)
        else:
            raw = self._engine.generate(prompt, lookup=bool(draft.notes), soft_prefix=draft.soft_prefix, **limits)
        yield from whole_sentences(raw, max_tokens=options.max_tokens, sentences=options.sentences)
