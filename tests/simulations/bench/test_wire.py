"""Bytes are those of real rounds: of the right size for what each strategy sums, and Flower's for the peer."""

from __future__ import annotations

from pathlib import Path

import pytest

import client.app as client_app
from simulations.bench import wire
from simulations.strategies.exact_product import ExactProduct
from simulations.strategies.ffa_lora import FfaLora
from simulations.strategies.lora_averaging import LoraAveraging
from simulations.strategies.strategy import AdaptedMaps

MAPS = AdaptedMaps(("blk.0.attn_output", "blk.0.ffn_down"), ((96, 96), (96, 400)), 4)


def test_a_round_costs_two_bytes_per_value_up_and_four_down_on_top_of_the_keys(tmp_path: Path) -> None:
    homes = wire.empty_homes(tmp_path, 8)
    one = wire.measure(FfaLora(MAPS, 0.0), *homes, tmp_path / "one")
    other = wire.measure(ExactProduct(MAPS, (2, 4), 4, 0.0), *homes, tmp_path / "other")
    assert one.values == 4 * (96 + 96) and other.values == 4 * (96 + 96 + 96 + 400)
    for measured, sums in ((one, 1), (other, 2)):
        assert 2 * measured.values < measured.collect_up < 2 * measured.values + 500 * sums
        assert measured.collect_up < measured.up < measured.collect_up + 5000 * sums
    b, a = 4 * (96 + 96), 4 * (96 + 400)
    assert 4 * b < one.down < 4 * b + 12_000
    assert 4 * (a + b + b) < other.down < 4 * (a + b + b) + 24_000  # the fleet's adapter, then the basis
    assert client_app.work_factory is client_app.default_work


def test_what_another_strategy_has_sent_before_is_sent_again(tmp_path: Path) -> None:
    homes = wire.empty_homes(tmp_path, 8)
    first, second = (
        wire.measure(strategy, *homes, tmp_path / strategy.name).down
        for strategy in (LoraAveraging(MAPS, 0.0), ExactProduct(MAPS, (2, 4), 4, 0.0))
    )
    assert second > first > 4 * 4 * (96 + 96 + 96 + 400)


def test_the_peer_sends_every_number_of_both_factors_as_float32_both_ways() -> None:
    values = 4 * (96 + 96 + 96 + 400)
    peer = wire.flower_bytes(MAPS, 3)
    assert peer.values == values
    assert 4 * values < peer.up < 4 * values + 4000 and 4 * values < peer.down < 4 * values + 4000


@pytest.mark.real_model
def test_every_strategy_is_measured_at_the_size_of_a_default_fleet() -> None:
    seen: list[str] = []
    cases = wire.run(lambda stage, fraction: seen.append(stage), people=8)
    assert set(cases) == {
        "frame_coordinates", "lora_averaging", "ffa_lora", "fedsa_lora", "exact_product", "seed_scalars",
    }  # fmt: skip
    assert len(seen) == 7 and len({case.peer for case in cases.values()}) == 1
    bytes_up, peer = {name: case.ours for name, case in cases.items()}, cases["lora_averaging"].peer
    assert peer is not None
    assert bytes_up["seed_scalars"] < 18_000 and bytes_up["frame_coordinates"] < 10_000
    assert bytes_up["ffa_lora"] < bytes_up["fedsa_lora"] < bytes_up["lora_averaging"] < peer
    assert cases["lora_averaging"].more["values"] == cases["lora_averaging"].more["numbers_trained"] == 208_896
