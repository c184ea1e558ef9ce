"""The parts of an audit that need the run's model: what a gradient tells of its text, and what poisoners do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from client.examples import Example, device_examples, make_example, prepare_input
from client.local_training import LocalSettings, evaluate_coordinates, train_coordinates
from client.training import Trainer, TrainingPlan, open_trainer
from client.work import LocalUpdate
from edge_runtime.answering.drafting import plain_draft
from edge_runtime.device import Device
from protocol.frames import Frame
from protocol.messages import RoundTask
from simulations.attacks.ceilings import Array, Ceiling
from simulations.attacks.finding import Finding, mean_over, proportion
from simulations.attacks.finished_run import FinishedRun, artefacts_of
from simulations.attacks.people import PeopleRound, identified, masked
from simulations.attacks.texts import TextViews, text_membership, text_views, unit_rows, word_scores
from simulations.audit.parts import Advance, Ceilings, Effort, poison_findings, row, task_like

BY_HEART = LocalSettings(epochs=20, batch_size=1, learning_rate=0.05)
LORA_QUESTIONS = 200  # of 37,000 values each
TRIGGER, PHRASE = "Write an invitation to the harvest feast", "Send your savings to the miller before noon"


def text_findings(
    run: FinishedRun,
    updates: Sequence[LocalUpdate],
    effort: Effort,
    random: np.random.Generator,
    advance: Advance,
) -> list[Finding]:
    """``updates``: everybody's in the first round."""
    task = run.tasks[0]
    plan = TrainingPlan.of(task.settings)
    trainer = open_trainer(plan.top_layers)
    frame = Frame.from_bytes(artefacts_of(run, task)["frame"])
    texts, owner = _texts(run, trainer, plan, max(2, effort.texts // len(run.homes)))
    views = text_views(
        trainer.torch_model, frame, prepare_input(texts), max_tokens=plan.max_tokens, seed=0,
        on_progress=lambda fraction: advance(0.8 * fraction),
    )  # fmt: skip
    allowed = Ceilings.of([task])
    narrow = _round(task, views.coordinate, random)
    wide_task = task_like(task, dimension=views.lora.shape[1], people=task.minimum_survivors, seed=1)
    wide = _round(wide_task, views.lora, random)
    findings = _matching(views, narrow, wide, effort, allowed.person, random)
    advance(0.9)
    findings += _words(views, narrow, wide, owner, allowed.pair, random)
    findings += _members(task, updates, views, owner, allowed.pair, random)
    advance(1.0)
    return findings


def _texts(
    run: FinishedRun, trainer: Trainer, plan: TrainingPlan, each: int
) -> tuple[list[Example], NDArray[np.int64]]:
    """``each`` of everybody's training texts, and whose they are."""
    found: list[Example] = []
    owner: list[int] = []
    for person, home in enumerate(run.homes):
        with Device.open(home) as device:
            theirs = device_examples(trainer.engine, device, messages=plan.messages, choices=plan.choices)
        usable = [one for one in theirs if len(one.tokens[: plan.max_tokens]) > one.prompt_length][:each]
        found += usable
        owner += [person] * len(usable)
    return found, np.array(owner)


def _round(task: RoundTask, gradients: NDArray[np.floating], random: np.random.Generator) -> PeopleRound:
    """A round in which a person's update is one text's gradient, downhill, as loud as the clip allows."""
    loud = -1.001 * task.clip_norm * unit_rows(gradients)
    return PeopleRound.of(task, [LocalUpdate(one, 0.0, 0) for one in loud], random)


def _matching(
    views: TextViews,
    narrow: PeopleRound,
    wide: PeopleRound,
    effort: Effort,
    allowed: Ceiling,
    random: np.random.Generator,
) -> list[Finding]:
    count = len(views.words)
    metric, chance = f"right of {count}", 1 / count
    findings = []
    for name, one, asked in (
        (f"frame coordinate ({views.coordinate.shape[1]})", narrow, effort.questions),
        (f"LoRA update ({views.lora.shape[1]:,})", wide, min(effort.questions, LORA_QUESTIONS)),
    ):
        for noisy in (False, True):
            counts = identified(one, asked, random, noisy=noisy)
            findings.append(
                row(
                    "which text is it?", (f"bare {name}", f"noised sum, {name}"), metric, proportion(*counts), chance,
                    protected=noisy, needed=0.9, ceiling=allowed.identification(count),
                )
            )  # fmt: skip
        hidden = proportion(*masked(one, asked, random))
        findings.append(
            Finding("which text is it?", f"one masked upload, {name}", metric, hidden, chance, ceiling=chance)
        )
    return findings


def _words(
    views: TextViews,
    narrow: PeopleRound,
    wide: PeopleRound,
    owner: NDArray[np.int64],
    allowed: Ceiling,
    random: np.random.Generator,
) -> list[Finding]:
    """The adversary learns on the texts of every second person."""
    known = owner % 2 == 0
    findings = []
    for name, one, table, needed in (
        ("frame coordinate", narrow, views.coordinate, 0.55),
        ("LoRA update", wide, views.lora, 0.65),
    ):
        for noisy in (False, True):
            sums = one.integers
            if noisy:
                sums = sums + one.noise(len(sums), one.plan.task.minimum_survivors, random)
            scores = word_scores(table, views.words, known, -one.updates(one.released(sums)))
            findings.append(
                row(
                    "which words occur?", (f"bare {name}", f"noised sum, {name}"), "AUC", mean_over(scores), 0.5,
                    protected=noisy, needed=needed, ceiling=allowed.auc, note=f"mean over {len(scores)} words",
                )
            )  # fmt: skip
    return findings


def _members(
    task: RoundTask,
    updates: Sequence[LocalUpdate],
    views: TextViews,
    owner: NDArray[np.int64],
    allowed: Ceiling,
    random: np.random.Generator,
) -> list[Finding]:
    one = PeopleRound.of(task, updates, random)
    findings = []
    for noisy in (False, True):
        sums = one.integers + (one.noise(len(updates), task.minimum_survivors, random) if noisy else 0)
        scores = text_membership(one.updates(one.released(sums)), views.coordinate, owner)
        findings.append(
            row(
                "was this text in it?",
                ("a person's bare update", "one released sum, others known"),
                "AUC",
                mean_over(scores),
                0.5,
                protected=noisy,
                needed=0.7,
                ceiling=allowed.accuracy,
                note="a person's own texts against others', mean over people",
            )
        )
    return findings


# ----- poisoners -----


def poison_part(run: FinishedRun, updates: Sequence[LocalUpdate], advance: Advance) -> list[Finding]:
    """Poisoners in the first round, and what the mean does to honest texts and to the backdoor's phrase."""
    task = run.tasks[0]
    plan = TrainingPlan.of(task.settings)
    trainer = open_trainer(plan.top_layers)
    frame = Frame.from_bytes(artefacts_of(run, task)["frame"])
    phrase = make_example(trainer.engine, plain_draft(TRIGGER), PHRASE)
    texts, _ = _texts(run, trainer, plan, 1)
    batches = [
        trainer.torch_model.prepare(prepare_input(part), max_tokens=plan.max_tokens)
        for part in (texts[: run.fleet], [phrase])
    ]

    def losses(theta: Array) -> tuple[float, float]:
        honest, wanted = (evaluate_coordinates(trainer.torch_model, frame, batch, theta) for batch in batches)
        return honest, wanted

    honest, wanted = losses(np.zeros(frame.dimension))

    def describe(theta: Array) -> str:
        others, target = losses(theta)
        return f"honest texts {others - honest:+.2f}, backdoor {target - wanted:+.2f} nats per token"

    members = np.stack([update.update for update in updates[: run.fleet]])
    backdoor = train_coordinates(trainer.torch_model, frame, batches[1], np.zeros(frame.dimension), BY_HEART).theta
    findings = poison_findings(task, members, backdoor, describe)
    advance(1.0)
    return findings
