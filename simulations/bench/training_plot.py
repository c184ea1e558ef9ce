"""Held-out loss against the time that training took, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simulations.reports.plots import LIGHT

_PANELS: Final = {"held_out_loss": "behind the bare request", "held_out_loss_served": "behind what drafting serves"}


def draw(cases: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Write the curves of `penchant bench training` to ``path`` as PNG: a mark for every pass over a person's texts."""
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    sizes = [name.removeprefix("examples") for name in cases if name.startswith("examples")]
    first = cases["examples"]
    for axes, (panel, title) in zip(figure.subplots(1, 2, sharey=True), _PANELS.items(), strict=True):
        for size, style in zip(sizes, ("o-", "s--"), strict=False):
            layers = size.replace("_", " ").strip()
            numbers = cases[f"examples{size}"]["setting"]["numbers"]
            curve = cases[panel + size]["curve"]
            label = f"ours, {layers + ' layers' if layers else 'all layers'}: {numbers:,} numbers"
            axes.plot(curve["seconds"], curve["losses"], style, color=LIGHT.better, label=label)
        curve, setting = cases[panel]["peer_curve"], cases[panel]["peer_setting"]
        label = f"peft, all layers: {setting['numbers']:,} numbers"
        axes.plot(curve["seconds"], curve["losses"], "^-", color=LIGHT.worse, label=label)
        axes.set(xlabel="seconds of training, one person", title=title)
        axes.grid(True, linewidth=0.3)
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("held-out loss, nats per token")
    figure.suptitle(
        f"Mean of {first['people']} people, {first['threads']} threads, {first['number_format']}", fontsize=10
    )
    figure.savefig(path, dpi=150, format="png")
