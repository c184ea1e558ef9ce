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

Ablation on 24 questions about the village (12 people), nats per token of the right answer with the bundled model: all
stages 1.94; without synthesis 2.03; then also without ranking 2.02 or without summaries 2.02 (both within the error:
they keep the prompt short); without retrieval 4.13.

Everything recalled is data (guard.py): it reaches the prompt as notes, on one line each and without control tokens,
and what the model makes of it is never stored as a memory.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final

from edge_runtime.answering.answering import beginning, lay_out
from edge_runtime.answering.audit import Audit
from edge_runtime.answering.citing import notes_behind
from edge_runtime.answering.evidence import Evidence, drop, gather, rank
from edge_runtime.answering.gist import gist, key_line
from edge_runtime.answering.guard import as_data, as_note
from edge_runtime.answering.lengths import whole_sentences
from edge_runtime.answering.planner import Plan, drop_unplanned, plan_sources, recall_floor
from edge_runtime.answering.rewriting import rewrite
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.sampling import Sampling
from edge_runtime.profile.profile import ProfileLine
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
    `as_of` (ISO date) answers from what was known that day."""

    stages: Stages = Stages()
    k: int = DEFAULT_MEMORIES
    max_tokens: int = DEFAULT_ANSWER_TOKENS
    sampling: Sampling = DEFAULT_SAMPLING
    as_of: str | None = None
    sentences: int | None = None

    def __post_init__(self) -> None:
        if self.k < 0 or self.max_tokens < 1 or (self.sentences is not None and self.sentences < 1):
            raise PenchantError("An answer needs k of 0 or more, and max_tokens and sentences of 1 or more.")


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
        draft = _Draft(as_data(engine, question.strip()), clean, as_data(engine, system.strip()), audit)
        self._look_up(draft, options)
        prompt = self._fitted(draft, engine.context_tokens - options.max_tokens)
        return AnswerStream(draft.sources(), self._generate(draft, prompt, question, conversation, options), audit)

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
        if draft.notes and not draft.system and not draft.rules:
            self._warm()
        raw = self._engine.generate(
            prompt, max_tokens=options.max_tokens, sampling=options.sampling, lookup=bool(draft.notes)
        )
        text, audit.stopped = "", True
        try:
            with audit.timed("generate"):
                for piece in whole_sentences(raw, max_tokens=options.max_tokens, sentences=options.sentences):
                    text += piece
                    yield piece
            audit.stopped = False
        finally:
            audit.answer_tokens = len(self._engine.tokenise(text)) if text else 0
            shown = [(source.id, line) for source, line in [*draft.notes, *draft.profile]]
            audit.cited = notes_behind(text, draft.question, shown)
            if conversation is not None:
                audit.turn_id = conversations.add(conversation, "assistant", text.rstrip(), audit.to_dict()).id
