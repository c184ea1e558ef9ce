"""Numbers as words: what the table and the page say about a run, computed from its figures and nothing else.

A verdict follows the 95 % interval alone: an interval that holds zero is never called a gain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from simulations.reports.schema import REFERENCE_ARM, Arm, Bases, Gain, Privacy, RunReport, Wire, finite

SNR_FLOOR = 0.3  # below this the noise in a sum hides what the devices taught
MINUS = "\N{MINUS SIGN}"
# The claim under test comes first: it is chosen by the design, not by which arm came out best.
HEADLINE_ORDER = ("rag+bases", "rag+shared", "rag", "bases", "shared", "personal")
ARM_ORDER = ("none", "rag", "shared", "personal", "bases", "rag+shared", "rag+bases")
ARM_MEANING = {
    "none": "the plain model",
    "rag": "the person's own memories in context",
    "shared": "one adapter learnt by the whole fleet",
    "personal": "an adapter trained on this person's device alone",
    "bases": "the fleet's bases in this person's own mix",
    "rag+shared": "memories and the shared adapter",
    "rag+bases": "memories and this person's mix of bases",
}
CONTROL_NAME = {
    "stranger_memory": "a stranger's memory",
    "stranger_memory+bases": "a stranger's memory+bases",
    "stranger_adapter": "a stranger's adapter",
}


def signed(text: str) -> str:
    """The text of a number with a real minus sign."""
    return text.replace("-", MINUS)


def percent_texts(values: Sequence[float], decimals: int | None = None) -> list[str]:
    """Fractions as percentages without the sign "%", all with the same decimals: those asked for, else none
    from 10 % on and one below; and as many more (to four) as keep what is not zero from being shown as zero.
    """
    scaled = [100 * value for value in values]
    if decimals is None:
        decimals = 0 if all(abs(value) >= 10 for value in scaled) else 1
    while decimals < 4 and any(value != 0 and abs(value) < 0.5 * 10**-decimals for value in scaled):
        decimals += 1
    # Adding zero turns a rounded "-0.0" into "0.0".
    return [signed(f"{round(value, decimals) + 0.0:.{decimals}f}") for value in scaled]


def percent(value: float) -> str:
    """0.412 -> "41 %"."""
    return f"{percent_texts([value])[0]} %"


def gain_texts(gain: Gain, decimals: int | None = None) -> tuple[str, str]:
    """(gain, interval) with the same decimals: ("41 %", "38 to 44")."""
    value, low, high = percent_texts([gain.gain, *gain.gain_interval], decimals)
    return f"{value} %", f"{low} to {high}"


def bytes_text(size: float | None) -> str:
    """7200 -> "7.2 kB" (decimal units)."""
    if size is None:
        return "not measured"
    if size < 1000:
        return f"{size:.0f} B"
    if size < 999_950:
        return f"{size / 1e3:.1f} kB" if size < 99_950 else f"{size / 1e3:.0f} kB"
    return f"{size / 1e6:.1f} MB"


def seconds_text(seconds: float) -> str:
    """252 -> "4 min 12 s"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def number_text(value: float | None, digits: int = 3, missing: str = "not stated") -> str:
    """A number with so many significant digits and no exponent between 0.001 and a million."""
    if value is None or math.isnan(value):
        return missing
    if math.isinf(value):
        return "infinite"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return signed(f"{value:.{decimals}f}")
    return _exponent(value, digits - 1)


def _exponent(value: float, digits: int) -> str:
    """Significant digits, the exponent (if any) without its leading zero: "1e-5"."""
    return f"{value:.{digits}g}".replace("e-0", "e-").replace("e+0", "e+")


def delta_text(delta: float | None) -> str:
    """0.001 -> "0.001", 0.00001 -> "1e-5"."""
    return "not stated" if delta is None else _exponent(delta, 2)


def epsilon_text(privacy: Privacy, value: float | None) -> str:
    """Epsilon, or "infinite" whenever this run protects nobody, whatever number came with it."""
    if privacy.warning:
        return "infinite"
    return number_text(finite(value), missing="infinite")


def clip_text(privacy: Privacy) -> str:
    """The L2 bound on one person's contribution; by kind of round if the run says so ("shared 0.83, bases 1")."""
    if isinstance(privacy.clip, dict):
        return ", ".join(f"{kind} {clip:.3g}" for kind, clip in privacy.clip.items())
    return "" if privacy.clip is None else f"{privacy.clip:.3g}"


def ordered_arms(report: RunReport) -> list[tuple[str, Arm]]:
    """Arms in the design's order, unknown ones after."""
    known = [name for name in ARM_ORDER if name in report.arms]
    return [(name, report.arms[name]) for name in [*known, *(n for n in report.arms if n not in known)]]


def control_label(name: str, control: Arm) -> str:
    """ "a stranger's adapter", with the arm it is compared with where that is not the plain model."""
    label = CONTROL_NAME.get(name, name.replace("_", " "))
    return label if control.compared_with == REFERENCE_ARM else f"{label} (against {control.compared_with})"


def verdict(gain: Gain) -> str:
    """ "better", "worse" or "undecided": by whether the 95 % interval excludes zero."""
    low, high = gain.gain_interval
    if low > 0:
        return "better"
    return "worse" if high < 0 else "undecided"


def _result_sentence(name: str, gain: Gain, where: str) -> str:
    value, low, high = percent_texts([abs(gain.gain), *gain.gain_interval])
    if verdict(gain) == "better":
        return f"{name} lowers the loss by {value} % (95 % interval {low} to {high}) {where}."
    if verdict(gain) == "worse":
        low, high = percent_texts([-gain.gain_interval[1], -gain.gain_interval[0]])
        return f"{name} is worse than the plain model: the loss rises by {value} % ({low} to {high}) {where}."
    value, low, high = percent_texts([gain.gain, *gain.gain_interval])
    return (
        f"{name} does not beat the plain model {where}: the loss is {value} % lower on average, but the "
        f"95 % interval ({low} to {high}) includes zero."
        if gain.gain > 0
        else f"{name} does not beat the plain model {where}: gain {value} %, 95 % interval {low} to {high}."
    )


def headline_arm(report: RunReport) -> str | None:
    """The arm that the headline is about, or None when only the plain model was scored."""
    candidates = [*HEADLINE_ORDER, *report.arms]
    return next((name for name in candidates if name in report.arms and name != REFERENCE_ARM), None)


def headline(report: RunReport) -> str:
    """The run's result in one sentence."""
    name = headline_arm(report)
    if name is None:
        return "Only the plain model was scored: this run compares nothing."
    people = report.arms[name].people
    whose = f"{people} people's" if people else "each person's"
    return _result_sentence(name, report.arms[name], f"on {whose} own held-out text")


def headline_details(report: RunReport) -> list[str]:
    """What one has to know to read the headline: how much of it is memory, what strangers give, newcomers."""
    name = headline_arm(report)
    if name is None:
        return []
    details = []
    parts = [part for part in name.split("+") if part in report.arms] if "+" in name else []
    if parts:
        alone = " and ".join(f"{part} {percent(report.arms[part].gain)}" for part in parts)
        details.append(f"Its parts alone give: {alone}.")
    if (control := report.controls.get("stranger_memory")) is not None:
        own = report.arms.get("rag")
        own_helps = "; one's own helps" if own is not None and verdict(own) == "better" else ""
        size = ", 95 % interval ".join(gain_texts(control))
        versus = "" if control.compared_with == REFERENCE_ARM else f" against {control.compared_with}"
        details.append(
            {
                "better": f"A stranger's memory helps too ({size}{versus}): that much is not knowledge of the person.",
                "worse": f"A stranger's memory harms ({size}{versus}){own_helps}.",
                "undecided": f"A stranger's memory does not help ({size}{versus}){own_helps}.",
            }[verdict(control)]
        )
    if (newcomers := report.arms[name].newcomers) is not None:
        who = f"{newcomers.people} newcomers" if newcomers.people else "newcomers"
        details.append(_result_sentence(name, newcomers, f"for {who}, who took part in no round"))
    return details


def snr_warning(privacy: Privacy) -> str:
    """A sentence when the noise hides the signal, else empty."""
    snr = finite(privacy.snr)
    if privacy.warning or snr is None or snr >= SNR_FLOOR:
        return ""
    return (
        f"The signal-to-noise bound of {number_text(snr, 2)} is below {SNR_FLOOR}: the sums of this fleet "
        "are mostly noise, and little of what the federated arms show can have been learnt from them."
    )


def larger_fleet_sentence(privacy: Privacy) -> str:
    """What the same settings give a fleet of 1,000, or empty when the run did not work it out or settings
    without noise would give nothing to any fleet.
    """
    larger = privacy.fleet_of_1000
    if larger is None or privacy.warning:
        return ""
    known = [
        f"{name} {number_text(value)}"
        for name, value in (
            ("signal-to-noise", finite(larger.snr)),
            ("epsilon", finite(larger.epsilon)),
            ("noise multiplier", finite(larger.noise_multiplier)),
        )
        if value is not None
    ]
    return f"The same settings in a fleet of 1,000: {', '.join(known)}." if known else ""


def privacy_sentence(privacy: Privacy) -> str:
    """Epsilon, delta, unit and signal-to-noise in one line."""
    if privacy.warning:
        return f"{privacy.warning} (epsilon infinite, unit: {privacy.unit})"
    return (
        f"epsilon {epsilon_text(privacy, privacy.epsilon)} at delta {delta_text(privacy.delta)}, "
        f"unit: {privacy.unit}, signal-to-noise {number_text(finite(privacy.snr), 2)}"
    )


def spectrum_sentence(bases: Bases, privacy: Privacy) -> str:
    """How many singular values stand above the noise."""
    count, floor = len(bases.spectrum), bases.noise_floor
    if not count:
        return "No spectrum was recorded."
    if privacy.warning or not floor:
        return "There is no noise floor to compare the singular values with."
    above = sum(value > floor for value in bases.spectrum)
    if above == 0:
        all_of_them = "The only singular value lies" if count == 1 else f"All {count} singular values lie"
        return (
            f"{all_of_them} below the noise floor of {number_text(floor)}: these bases cannot be told from "
            "noise, and nothing that the arms with bases gain may be credited to structure in the fleet."
        )
    if above == count:
        return f"All {count} singular values lie above the noise floor of {number_text(floor)}."
    stands = "stands" if above == 1 else "stand"
    return (
        f"{above} of {count} singular values {stands} above the noise floor of {number_text(floor)}; the "
        f"other {'one' if count - above == 1 else count - above} cannot be told from noise."
    )


def wire_sentence(wire: Wire) -> str:
    """Bytes per person and round, with the limit and the setup."""
    line = f"{bytes_text(wire.up_bytes)} up, {bytes_text(wire.down_bytes)} down per person and round"
    if wire.limit_up_bytes:
        kept = "within" if wire.up_bytes <= wire.limit_up_bytes else "ABOVE"
        line += f" ({kept} the limit of {bytes_text(wire.limit_up_bytes)} up)"
    if wire.setup_down_bytes is not None:
        line += f"; {bytes_text(wire.setup_down_bytes)} down once for setup"
    return line


def secure_aggregation_sentence(report: RunReport) -> str:
    """Cohort, threshold and dropouts in one line."""
    part = report.secure_aggregation
    line = f"cohort {part.cohort}, threshold {part.threshold}"
    if part.degree is not None:
        line += f" of {part.degree} neighbours"
    if part.minimum_survivors is not None:
        line += f", at least {part.minimum_survivors} in a sum"
    lost = "device" if part.dropouts_survived == 1 else "devices"
    line += f"; a round survives the loss of {part.dropouts_survived} {lost}"
    return f"{line}; sums modulo 2^{part.ring_bits}" if part.ring_bits is not None else line


def time_sentence(report: RunReport) -> str:
    """Total time, the three longest stages, peak memory."""
    stages = {name: value for name, value in report.seconds.items() if name != "total"}
    total = report.seconds.get("total", sum(stages.values()))
    line = seconds_text(total)
    longest = sorted(stages, key=lambda name: -stages[name])[:3]
    if longest:
        line += f" ({', '.join(f'{name} {seconds_text(stages[name])}' for name in longest)})"
    if report.peak_memory_mb is not None:
        line += f"; peak memory {report.peak_memory_mb:,.0f} MB"
    return line
