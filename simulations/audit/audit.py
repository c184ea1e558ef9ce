"""`penchant audit`: attacks on a finished run, each measured value beside the ceiling of what was promised.

Results go into the run's folder as they come: ``audit.json`` after every part, then ``audit.png`` and ``audit.html``.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from client.training import forget_batches, open_trainer
from edge_runtime.models.catalogue import find_model, write_atomically
from protocol.accounting import Accountant
from protocol.errors import PenchantError
from simulations.attacks.finding import Finding
from simulations.attacks.finished_run import FinishedRun, contributions, read_run
from simulations.audit.parts import FULL, QUICK, Effort, mechanism_findings
from simulations.audit.result import Audit

StageSink = Callable[[str, float], None]


def run_audit(
    folder: Path,
    *,
    quick: bool = False,
    seed: int = 0,
    command: str = "",
    on_stage: StageSink = lambda name, fraction: None,
) -> Audit:
    """Attack the finished run in ``folder`` and write the results there; the run itself is only read.

    ``quick``: the mechanism, the first round and the texts' gradients, with fewer repeats; no adapters are trained.
    Raises PenchantError if the folder holds no finished run or its model is not on this machine.
    """
    effort = QUICK if quick else FULL
    random = np.random.default_rng(seed)
    seconds: dict[str, float] = {}
    findings: list[Finding] = []

    @contextmanager
    def stage(name: str) -> Any:
        started = time.monotonic()
        on_stage(name, 0.0)
        yield lambda fraction: on_stage(name, min(fraction, 1.0))
        on_stage(name, 1.0)
        seconds[name] = time.monotonic() - started
        _write_json(folder, audit())

    with tempfile.TemporaryDirectory(prefix="penchant-audit-") as workplace:
        run = read_run(folder, Path(workplace))

        def audit() -> Audit:
            return Audit(
                run.report.title,
                tuple(findings),
                Accountant(run.events).epsilon(run.tasks[0].delta),
                run.tasks[0].delta,
                len(run.homes),
                len(run.tasks),
                quick,
                seed,
                dict(seconds),
                datetime.now(UTC).isoformat(timespec="seconds"),
                command,
            )

        with stage("canaries in the mechanism") as advance:
            findings += mechanism_findings(run.tasks, effort, random, advance)
        _attack_people_and_texts(run, effort, random, findings, stage)
        found = audit()
    with stage("report"):
        from simulations.audit.page import draw_audit, render_audit

        picture = draw_audit(found)
        write_atomically(folder / "audit.png", picture)
        write_atomically(folder / "audit.html", render_audit(found, picture).encode("utf-8"))
    return found


def _attack_people_and_texts(
    run: FinishedRun, effort: Effort, random: np.random.Generator, findings: list[Finding], stage: Any
) -> None:
    """The parts that need the run's devices, and its model where the rounds trained adapters."""
    from simulations.audit.people import people_findings

    adapters = run.tasks[0].space == "adapter"
    if adapters:
        _use_model(run)
    count = effort.rounds or len(run.tasks)
    with stage("everybody's contributions") as advance:
        updates = contributions(run, count, on_progress=advance)
    with stage("people") as advance:
        findings += people_findings(run, updates, effort, random, advance)
    if adapters:
        from simulations.audit.adapter import adapter_findings
        from simulations.audit.texts import poison_part, text_findings

        with stage("texts in gradients") as advance:
            findings += text_findings(run, updates[0], effort, random, advance)
        with stage("poisoners") as advance:
            findings += poison_part(run, updates[0], advance)
        if effort.adapters:
            with stage("texts in a personal adapter") as advance:
                findings += adapter_findings(run, effort, random, advance)
    open_trainer.cache_clear()
    forget_batches()


def _use_model(run: FinishedRun) -> None:
    """Contributions are computed with the model of this process, which must be the run's."""
    chosen = os.environ.get("PENCHANT_MODEL")
    model = find_model(chosen) if chosen else find_model()
    if model.sha256 != run.report.model.sha256:
        raise PenchantError(
            f"the run used the model {run.report.model.name} ({run.report.model.sha256[:12]}), this machine serves "
            f"{model.name} ({model.sha256[:12]}): set PENCHANT_MODEL to the run's"
        )


def _write_json(folder: Path, audit: Audit) -> None:
    text = json.dumps(audit.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(folder / "audit.json", text.encode("utf-8"))
