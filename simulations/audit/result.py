"""What an audit found."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from simulations.attacks.finding import Finding
from simulations.reports.schema import plain


@dataclass(frozen=True)
class Audit:
    """All findings about one run, and what it promised (``epsilon`` infinite: nothing)."""

    title: str
    findings: tuple[Finding, ...]
    epsilon: float
    delta: float
    people: int
    rounds: int
    quick: bool
    seed: int
    seconds: dict[str, float]
    created: str
    command: str

    @property
    def above(self) -> list[Finding]:
        """What surely exceeds its ceiling: a bug, or a promise that does not hold."""
        return [finding for finding in self.findings if finding.verdict == "above"]

    @property
    def weak(self) -> list[Finding]:
        """Controls that did not succeed: there the audit proves little."""
        return [finding for finding in self.findings if finding.verdict == "too weak"]

    @property
    def headline(self) -> str:
        """The result in one sentence."""
        tested = sum(finding.ceiling is not None for finding in self.findings)
        controls = len(self.findings) - tested
        if self.above:
            names = ", ".join(f"{finding.attack} ({finding.against})" for finding in self.above)
            return f"{len(self.above)} of {tested} measured values lie above their ceiling: {names}."
        worked = controls - len(self.weak)
        return f"No measured value is above its ceiling ({tested} tested); {worked} of {controls} controls succeeded."

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and texts; numbers that JSON does not have become None."""
        values = {**self.__dict__, "findings": [finding.to_json() for finding in self.findings]}
        versions = {name: version(name) for name in ("penchant", "numpy", "scipy", "torch")}
        return dict(plain({**values, "headline": self.headline, "above": len(self.above), "versions": versions}))
