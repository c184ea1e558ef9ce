from __future__ import annotations

from io import BytesIO
from typing import Any

from matplotlib.image import imread

from simulations.studies.frames.plot import draw_curve, frontier


def row(source: str, family: str, numbers: int, gain: float) -> dict[str, Any]:
    return {
        "source": source, "family": family, "layers": 4, "kinds": ["attn_v"], "rank": 2, "numbers": numbers,
        "gain": gain, "gain_interval": [gain - 0.01, gain + 0.01],
    }  # fmt: skip


def test_the_frontier_leaves_out_what_another_beats_with_fewer_numbers() -> None:
    rows = [
        row("blogs", "lora", 1000, 0.08),
        row("blogs", "gradient", 10, 0.05),
        row("blogs", "gradient", 100, 0.04),
        row("blogs", "weights", 10, 0.02),
        row("blogs", "ffa", 500, 0.08),
    ]
    assert [(point["numbers"], point["gain"]) for point in frontier(rows)] == [(10, 0.05), (500, 0.08)]


def test_one_panel_for_each_data_set() -> None:
    one = [row("blogs", "lora", 1000, 0.08), row("blogs", "gradient", 10, 0.05)]
    both = [*one, row("novels", "lora", 1000, 0.07), row("novels", "ffa", 100, 0.02)]
    narrow, wide = (imread(BytesIO(draw_curve(rows)), format="png") for rows in (one, both))
    assert wide.shape[0] == narrow.shape[0] and wide.shape[1] > 1.9 * narrow.shape[1]
    assert narrow.std() > 0
