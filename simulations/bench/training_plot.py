"""Held-out loss against the time that training took, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simulations.reports.plots import LIGHT


def draw(cases: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write the curves of `penchant bench training` to ``path`` as PNG: a mark for every pass over a person's texts."""
    figure = Figure(figsize=(7.0, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    speeds = {name: case for name, case in cases.items() if name.startswith("examples")}
    for (name, case), style in zip(speeds.items(), ("o-", "s--"), strict=False):
        layers = name.removeprefix("examples").replace("_", " ").strip()
        label = f"ours, {layers + ' layers' if layers else 'all layers'}: {case['setting']['numbers']:,} numbers"
        axes.plot(case["curve"]["seconds"], case["curve"]["losses"], style, color=LIGHT.better, label=label)
    (first, *_) = speeds.values()
    label = f"peft, all layers: {first['peer_setting']['numbers']:,} numbers"
    axes.plot(first["peer_curve"]["seconds"], first["peer_curve"]["losses"], "^-", color=LIGHT.worse, label=label)
    axes.set(xlabel="seconds of training, one person", ylabel="held-out loss, nats per token")
    axes.set_title(
        f"Mean of {first['people']} people, {first['threads']} threads, {first['number_format']}", fontsize=10
    )
    axes.grid(True, linewidth=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150, format="png")
