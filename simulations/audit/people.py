"""The part of an audit that asks after people: membership, identity and private weights, from what everybody really
contributed to a finished run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from client.work import LocalUpdate
from protocol.coordinates import Coordinates
from protocol.frames import Frame
from protocol.messages import RoundTask
from simulations.attacks.finding import Finding, auc, mean_over, proportion
from simulations.attacks.finished_run import FinishedRun, artefacts_of
from simulations.attacks.people import (
    PeopleRound,
    identified,
    likelihood_ratio,
    likeness_of_weights,
    masked,
    others_known,
    transcript_scores,
    weight_direction,
)
from simulations.attacks.texts import unit_rows
from simulations.audit.parts import Advance, Ceilings, Effort, row


def people_findings(
    run: FinishedRun,
    updates: Sequence[Sequence[LocalUpdate]],
    effort: Effort,
    random: np.random.Generator,
    advance: Advance,
) -> list[Finding]:
    """``updates``: [round][person], the run's first rounds."""
    tasks = run.tasks[: len(updates)]
    rounds = [PeopleRound.of(task, given, random) for task, given in zip(tasks, updates, strict=True)]
    findings = _membership(run, rounds, effort, random, advance)
    people, first = len(updates[0]), Ceilings.of(tasks[:1]).person
    for noisy in (False, True):
        findings.append(
            row(
                "who is it?",
                ("the bare update", "one released sum, others known"),
                f"right of {people}",
                proportion(*identified(rounds[0], effort.questions, random, noisy=noisy)),
                1 / people,
                protected=noisy,
                needed=0.9,
                ceiling=first.identification(people),
            )
        )
    hidden = proportion(*masked(rounds[0], effort.questions, random))
    chance = 1 / people  # and no more: a mask is a one-time pad
    findings.append(Finding("who is it?", "one masked upload", f"right of {people}", hidden, chance, ceiling=chance))
    advance(0.85)
    findings += _weights(run, tasks, updates, effort, random)
    advance(1.0)
    return findings


def _membership(
    run: FinishedRun, rounds: Sequence[PeopleRound], effort: Effort, random: np.random.Generator, advance: Advance
) -> list[Finding]:
    ceiling = Ceilings.of(run.tasks[: len(rounds)]).person.auc
    people, several = len(rounds[0].exact), len(rounds) > 1
    sums = f"all {len(rounds)} released sums" if several else "one released sum"
    where = ("the same without noise", sums)
    findings = []
    for noisy in (False, True):
        known = others_known(rounds, effort.people_runs, random, noisy=noisy)
        findings.append(
            row(
                "membership of a person, others known", where, "AUC", mean_over(known), 0.5,
                protected=noisy, needed=0.99, ceiling=ceiling,
            )
        )  # fmt: skip
        advance(0.1 + 0.3 * noisy)
        # Without noise other people hide a person, which nobody promises: only the better attack must succeed.
        for calibrated in (False, True) if noisy else (True,):
            found = likelihood_ratio(
                rounds, people // 2, effort.shadow_fleets, random, noisy=noisy, calibrated=calibrated
            )
            findings.append(
                row(
                    f"membership of a person, {'LiRA' if calibrated else 'one threshold'}",
                    where,
                    "AUC",
                    mean_over(found),
                    0.5,
                    protected=noisy,
                    needed=0.9,
                    ceiling=ceiling,
                    note=f"{effort.shadow_fleets} shadow fleets of {people // 2}",
                )
            )
        advance(0.3 + 0.3 * noisy)
    if people > run.fleet:
        scores = transcript_scores(rounds, [outcome.integer_sum for outcome in run.outcomes[: len(rounds)]])
        measured = auc(scores[: run.fleet], scores[run.fleet :])
        note = f"{run.fleet} members against {people - run.fleet} newcomers"
        findings.append(
            Finding("membership of a person, in this very run", sums, "AUC", measured, 0.5, ceiling=ceiling, note=note)
        )
    return findings


def _weights(
    run: FinishedRun,
    tasks: Sequence[RoundTask],
    updates: Sequence[Sequence[LocalUpdate]],
    effort: Effort,
    random: np.random.Generator,
) -> list[Finding]:
    """Private weights from the sums of the bases; none if these rounds have no such sums."""
    bases = [number for number, task in enumerate(tasks) if task.kind == "bases" and task.space == "adapter"]
    if not bases:
        return []
    task, given = tasks[bases[0]], updates[bases[0]]
    artefacts = artefacts_of(run, task)
    frame = Frame.from_bytes(artefacts["frame"])
    rows = Coordinates.from_bytes(artefacts["bases"], frame_sha256=frame.digest, dimension=frame.dimension).rows
    bare = [likeness_of_weights(update.update, update.update, rows) for update in given]
    one = PeopleRound.of(task, given, random)
    noise = one.noise(len(given), task.minimum_survivors, random)
    seen = one.updates(one.released(one.integers + noise))
    noisy = [likeness_of_weights(update.update, line, rows) for update, line in zip(given, seen, strict=True)]
    guess = float(np.abs(unit_rows(random.normal(size=(4000, len(rows))))[:, 0]).mean())
    findings = [
        Finding(
            "inversion of private weights",
            "the bare update",
            "|cosine|",
            mean_over(bare),
            guess,
            needed=0.99,
            note=f"from one noised sum with all others known {np.mean(noisy):.2f}",
        )
    ]
    ceiling = Ceilings.of([tasks[number] for number in bases]).pair.accuracy
    asked = max(2, effort.questions // len(given))
    for noise_on in (False, True):
        shares = []
        for person in range(len(given)):
            theirs = [(tasks[number], updates[number][person]) for number in bases]
            shares.append(weight_direction(theirs, asked, random, noisy=noise_on)[0] / asked)
        findings.append(
            row(
                "which way a private weight points",
                ("the same without noise", f"{len(bases)} released sums, others known"),
                "right of 2",
                mean_over(shares),
                0.5,
                protected=noise_on,
                needed=0.99,
                ceiling=ceiling,
            )
        )
    return findings
