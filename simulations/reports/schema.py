"""The shape of `report.json`, and the check that a run's report has it.

Required is what every run can say: the model, the arms with their intervals, privacy, wire, secure
aggregation, time, seed and versions. All else is optional and simply left out of the page when absent; keys
this file does not know are kept in the JSON. Losses are in nats per token, gains are relative reductions of
the loss (0.25 is 25 % lower), intervals are 95 % over people, sizes are bytes, times are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from protocol.errors import PenchantError

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Interval = tuple[FiniteFloat, FiniteFloat]
REFERENCE_ARM = "none"
PICTURES = ("arms", "privacy", "wire", "spectrum", "weights")


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class Model(_Part):
    """The one model file that was trained against and that scored."""

    name: str
    sha256: str
    quantisation: str


class FrameInfo(_Part):
    """The public frame in which all adapters of the run are coordinates."""

    sha256: str
    rank: Count
    modules: Count
    dimension: Count
    bytes: Count | None = None
    kinds: list[str] = Field(default_factory=list)
    top_layers: Count | None = None


class Gain(_Part):
    """A relative reduction of the loss and its 95 % interval over people."""

    gain: FiniteFloat
    gain_interval: Interval

    @model_validator(mode="after")
    def _interval_is_ordered(self) -> Gain:
        if self.gain_interval[0] > self.gain_interval[1]:
            raise ValueError("gain_interval must be [low, high]")
        return self


class NewcomerGain(Gain):
    """The same over people who took part in no round."""

    people: Count | None = None


class Arm(Gain):
    """One way of answering, scored on each person's held-out text."""

    loss: FiniteFloat
    interval: Interval
    people: Count | None = None  # over how many the mean and the interval are, where the run says so
    by_kind: dict[str, FiniteFloat | None] = Field(default_factory=dict)
    newcomers: NewcomerGain | None = None
    # Controls only: the arm that `gain` is relative to.
    compared_with: str = REFERENCE_ARM


class Spend(_Part):
    """The budget after one release; epsilon is null where there is no bound."""

    round: int
    kind: str
    epsilon_after: float | None = None


class LargerFleet(_Part):
    """What the same settings give a thousand people."""

    snr: float | None = None
    epsilon: float | None = None
    noise_multiplier: float | None = None


class Privacy(_Part):
    """What was promised to one person. `noise` is whether any was added."""

    noise: bool
    epsilon: float | None
    delta: float | None
    unit: str
    mechanism: str
    noise_multiplier: NonNegative
    clip: NonNegative | dict[str, NonNegative] | None  # by kind of round: that of its last one
    sampling: str
    snr: float | None
    neighbours: str = ""
    epsilon_rdp: float | None = None
    epsilon_prv: float | None = None
    spend: list[Spend] = Field(default_factory=list)
    fleet_of_1000: LargerFleet | None = None
    contributions_counted: str = ""

    @property
    def warning(self) -> str:
        """The sentence for the top of everything when this run protects nobody, else empty. It goes by what
        was done, not only by the flag: a multiplier of zero or a missing bound is no protection either.
        """
        if not self.noise or self.noise_multiplier == 0:
            return "NO NOISE: this run protects nobody"
        if finite(self.epsilon) is None:
            return "NO BOUND: epsilon is not finite, this run protects nobody"
        return ""


class Wire(_Part):
    """Bytes on the wire: means per person and round, and the setup that each person fetches once."""

    up_bytes: NonNegative
    down_bytes: NonNegative
    setup_down_bytes: NonNegative | None = None
    up_by_stage: dict[str, NonNegative] = Field(default_factory=dict)
    down_by_stage: dict[str, NonNegative] = Field(default_factory=dict)
    limit_up_bytes: NonNegative | None = None


class SecureAggregation(_Part):
    """The cohort of a round and how much of it may vanish."""

    cohort: Count
    threshold: Count
    dropouts_survived: Count
    minimum_survivors: Count | None = None
    degree: Count | None = None
    ring_bits: Count | None = None


class Bases(_Part):
    """Singular values of the preference bases, the size that noise alone would give, and (because these
    people are simulated) everybody's private weights.
    """

    count: Count
    spectrum: list[NonNegative] = Field(default_factory=list)
    noise_floor: NonNegative | None = None
    weights: dict[str, list[FiniteFloat]] = Field(default_factory=dict)


class RoundEntry(_Part):
    """One released round."""

    round: int
    kind: str
    cohort: Count | None = None
    survivors: Count | None = None
    clip_norm: float | None = None
    fraction_not_clipped: float | None = None
    mean_loss: float | None = None
    snr: float | None = None
    epsilon_after: float | None = None


class PersonAnswers(_Part):
    """One person's answers to a question, by arm."""

    name: str
    about: str = ""
    answers: dict[str, str]


class Sample(_Part):
    """One question and the answers that different people got."""

    question: str
    people: list[PersonAnswers]


class RunReport(_Part):
    """A whole report, checked."""

    model: Model
    people: Count
    rounds: Count
    arms: dict[str, Arm]
    controls: dict[str, Arm]
    privacy: Privacy
    wire: Wire
    secure_aggregation: SecureAggregation
    seconds: dict[str, NonNegative]
    seed: int
    versions: dict[str, str]
    title: str = "A Penchant run"
    created: str = ""
    command: str = ""
    frame: FrameInfo | None = None
    fleet: Count | None = None
    newcomers: Count | None = None
    round_log: list[RoundEntry] = Field(default_factory=list)
    bases: Bases | None = None
    samples: list[Sample] = Field(default_factory=list)
    peak_memory_mb: NonNegative | None = None

    @model_validator(mode="after")
    def _arms_have_a_reference(self) -> RunReport:
        if REFERENCE_ARM not in self.arms:
            raise ValueError("arms must hold 'none', the plain model that gains are measured against")
        return self

    @property
    def spend(self) -> list[Spend]:
        """The budget after every release, from the accountant's list or else from the log of rounds."""
        if self.privacy.spend:
            return self.privacy.spend
        return [
            Spend(round=entry.round, kind=entry.kind, epsilon_after=entry.epsilon_after)
            for entry in self.round_log
            if entry.epsilon_after is not None
        ]


def finite(value: float | None) -> float | None:
    """The number, or None where it is missing, infinite or not a number."""
    return value if value is not None and math.isfinite(value) else None


def plain(value: Any) -> Any:
    """Python's own types in place of NumPy's (anything with `tolist`), lists in place of tuples, text keys,
    and None in place of numbers that JSON does not have.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return finite(value)
    return value


def parse_report(report: Mapping[str, Any]) -> RunReport:
    """The checked report. PenchantError names the keys that are missing or wrong, never their contents."""
    try:
        return RunReport.model_validate(plain(report))
    except ValidationError as error:
        found = [
            f"{'.'.join(str(step) for step in problem['loc']) or 'report'}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False, include_context=False)
        ]
        shown = "; ".join(found[:4])
        more = f" (and {len(found) - 4} more)" if len(found) > 4 else ""
        raise PenchantError(f"The report cannot be written, correct these entries first: {shown}{more}") from None
