"""One file, several runs: every combination, each with a folder name of its own, all checked before the first."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.errors import PenchantError
from simulations.experiments.sweep import point_name, read_points, with_values

VILLAGE = '[people]\nsource = "village"\nfleet = 8\n'


def points_of(folder: Path, sweep: str) -> list[tuple[str, float, int, int]]:
    file = folder / "sweep.toml"
    file.write_text(f"seed = 5\n{VILLAGE}{sweep}")
    return [
        (point.name, point.settings.noise_multiplier, point.settings.plan.shared_rounds, len(point.people))
        for point in read_points(file)
    ]


def test_the_product_of_all_lists_in_order(tmp_path: Path) -> None:
    sweep = '[sweep]\nnoise_multiplier = [0.5, 2.0]\n"plan.shared_rounds" = [2, 4]\n"people.fleet" = [9]\n'
    assert points_of(tmp_path, sweep) == [
        ("noise_multiplier=0.5__shared_rounds=2__fleet=9", 0.5, 2, 15),
        ("noise_multiplier=0.5__shared_rounds=4__fleet=9", 0.5, 4, 15),
        ("noise_multiplier=2.0__shared_rounds=2__fleet=9", 2.0, 2, 15),
        ("noise_multiplier=2.0__shared_rounds=4__fleet=9", 2.0, 4, 15),
    ]


def test_the_file_itself_is_not_changed_by_a_combination() -> None:
    content = {"plan": {"shared_rounds": 3}}
    assert with_values(content, {"plan.shared_rounds": 4, "seed": 1}) == {"plan": {"shared_rounds": 4}, "seed": 1}
    assert content == {"plan": {"shared_rounds": 3}}


def test_a_name_holds_nothing_that_a_path_cannot() -> None:
    assert point_name({"model": "/a b/c.gguf", "frame_kinds": ["attn_v", "ffn_up"]}) == (
        "model=_a_b_c.gguf__frame_kinds=_attn_v_ffn_up_"
    )


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("[sweep]\nseed = 3\n", "needs lists of values"),
        ("[sweep]\nseed = []\n", "needs lists of values"),
        ("[sweep]\nseed = [1, 1]\n", "same combination twice"),
        ("[sweep]\ncolour = [1, 2]\n", "no experiment setting 'colour'"),
        ('[sweep]\n"plan.rank" = [1, 2]\n', "[plan] has no setting 'rank'"),
        ('[sweep]\n"seed.deep" = [1, 2]\n', "'seed' is not a table"),
        ('[sweep]\nnoise_multiplier = [1.0, "loud"]\n', "noise_multiplier"),
    ],
)
def test_a_wrong_sweep_is_one_clear_line(tmp_path: Path, sweep: str, message: str) -> None:
    with pytest.raises(PenchantError) as caught:
        points_of(tmp_path, sweep)
    assert message in str(caught.value) and "\n" not in str(caught.value)
