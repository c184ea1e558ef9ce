"""What a run keeps in its folder, so that the same command goes on after a kill and ends with the same report.

    run.json         digest of settings, people and model; the fleet's name; bytes on the wire so far
    credentials/     of the run's server, written when all homes stand: homes without it are made again
    frame.cbor       the fleet's frame, as it was published
    fleet.db         rounds, spends and outcomes (``server.fleet`` replays them)
    scores.jsonl     one line per scored job

Noise and keys are fresh in every run and never come back: a resumed run keeps what they gave, it does not draw them
again. What a device worked out for itself lies in its own encrypted file. A folder of other settings, people or another
model is refused, and so is a finished one.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from edge_runtime.models.catalogue import write_atomically
from protocol.errors import PenchantError
from server.credentials import ServerCredentials
from simulations.experiments.scoring import Job, JobResult
from simulations.people import Person

STATE, REPORT, DEVICES, CREDENTIALS, FRAME, SCORES = (
    "run.json", "report.json", "devices", "credentials", "frame.cbor", "scores.jsonl",
)  # fmt: skip


def plan_digest(settings: Any, people: Sequence[Person], model_sha256: str) -> str:
    """SHA-256 (hex) of all that decides what a run means: settings (a dataclass), people with their words, model."""
    return _digest([asdict(settings), [asdict(person) for person in people], model_sha256])


def people_digest(people: Sequence[Person]) -> str:
    """SHA-256 (hex) of who takes part and what they wrote: runs that share it can be compared person by person."""
    return _digest([asdict(person) for person in people])


def _digest(value: object) -> str:
    return sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


@dataclass
class RunFolder:
    """``out`` with what stands in it; ``traffic``: {direction: {stage: bytes}} of the messages sent so far."""

    out: Path
    plan_sha256: str
    run_id: str
    traffic: dict[str, dict[str, int]] = field(default_factory=lambda: {"up": {}, "down": {}})

    @staticmethod
    def open(out: Path, plan_sha256: str) -> RunFolder:
        """A new run, or the one that was stopped here. PenchantError for a finished run or another one."""
        choose = "choose another --out, or remove it"
        if (out / REPORT).exists():
            raise PenchantError(f"{out} holds a finished run: {choose}")
        try:
            state = json.loads((out / STATE).read_text("utf-8"))
            folder = RunFolder(out, state["plan_sha256"], state["run_id"], state["traffic"])
        except FileNotFoundError:
            if (out / DEVICES).exists():
                raise PenchantError(f"{out} holds an earlier run: {choose}") from None
            folder = RunFolder(out, plan_sha256, f"run-{secrets.token_hex(4)}")
            folder.save()
        except (OSError, ValueError, KeyError, TypeError):
            raise PenchantError(f"{out / STATE} cannot be read: {choose}") from None
        if folder.plan_sha256 != plan_sha256:
            raise PenchantError(f"{out} holds a stopped run of other settings, people or another model: {choose}")
        return folder

    def save(self) -> None:
        """Put the state on disk, whole or not at all."""
        self.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"plan_sha256": self.plan_sha256, "run_id": self.run_id, "traffic": self.traffic})
        write_atomically(self.out / STATE, text.encode())

    def credentials(self) -> ServerCredentials | None:
        """Those of the run's server if all its homes stand."""
        return (
            ServerCredentials.load(self.out / CREDENTIALS) if (self.out / CREDENTIALS / "server.key").exists() else None
        )

    def scores(self, jobs: Sequence[Job]) -> list[JobResult]:
        """What was scored before of these jobs. A line that a kill cut off is dropped."""
        path = self.out / SCORES
        lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):
            path.write_text("".join(whole), "utf-8")
        wanted, done = {job_digest(job) for job in jobs}, []
        for line in whole:
            digest, result = json.loads(line)
            if digest in wanted:
                sums = {kind: (nll, tokens) for kind, (nll, tokens) in result.pop("sums").items()}
                done.append(JobResult(**result, sums=sums))
        return done

    def keep_score(self, job: Job, result: JobResult) -> None:
        """Append one result."""
        with (self.out / SCORES).open("a", encoding="utf-8") as file:
            file.write(json.dumps([job_digest(job), asdict(result)]) + "\n")


def job_digest(job: Job) -> str:
    """What a job scores: arm, person, tokens and adapter."""
    return _digest([job.arm, job.person, [asdict(text) for text in job.texts], job.adapter_sha256])


def job_key(one: Job | JobResult) -> tuple[str, int, frozenset[str]]:
    """What a job and its result share: arm, person, kinds of text."""
    kinds = one.sums if isinstance(one, JobResult) else [text.kind for text in one.texts]
    return one.arm, one.person, frozenset(kinds)
