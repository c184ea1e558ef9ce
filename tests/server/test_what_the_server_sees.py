"""A test plays the server, keeps every byte it receives, and tries to find one person's contribution in them.

The server is curious: it follows the protocol and then works through its whole record (one that lies is in
`test_attacks`). The control is the same pipeline with masks that are all zero: there the very same attack finds every
contribution.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from protocol import masks, shamir
from protocol.codec import unpack
from protocol.messages import (
    AdvertiseReply,
    CollectReply,
    RoundTask,
    UnmaskReply,
)
from protocol.roster import graph_of, roster_digest, self_mask_key
from protocol.round_plan import RoundPlan
from simulations.experiments.local_grid import LocalGrid
from tests.fleet_help import (
    MeanAlgorithm,
    grid_of,
    make_fleet,
    recorded_contributions,
    run_fleet,
    settings_of,
    vector_of,
)

PEOPLE, SIZE = 8, 512


def recorded(grid: LocalGrid, stage: str) -> dict[int, bytes]:
    return {
        transfer.partition: transfer.payload or b""
        for transfer in grid.transfers
        if transfer.stage == stage and transfer.direction == "up"
    }


def correlation(values: NDArray[np.uint32], task: RoundTask, person: int) -> float:
    """How well the decoded values match the person's true update."""
    guess = RoundPlan.of(task).codec.decode(values)[: task.update_dimension]
    return float(np.corrcoef(guess, vector_of(person, task.update_dimension))[0, 1])


def curious_server(tmp_path: Path) -> tuple[RoundTask, dict[int, NDArray[np.uint32]], list[bytes]]:
    """Run one round; return the task, per person the best vector that the whole record allows, and all bytes
    up.

    The attack: rebuild every survivor's seed from the shares in the unmask replies (the server is entitled to
    them) and take the self mask off each masked vector. What stays on are the pairwise masks.
    """
    homes = make_fleet(tmp_path / "devices", PEOPLE)
    grid = grid_of(homes, record_payloads=True)
    with recorded_contributions():
        (outcome,) = run_fleet(grid, settings_of(), tmp_path / "out", MeanAlgorithm(SIZE)).outcomes
    task = outcome.task
    offers = {who: AdvertiseReply.from_bytes(data) for who, data in recorded(grid, "advertise").items()}
    order = sorted(offers, key=lambda who: offers[who].identity)
    roster = [(offers[who].identity, offers[who].masking_public, offers[who].sharing_public) for who in order]
    context, graph = roster_digest(task, roster), graph_of(task, roster)
    shares: dict[int, dict[int, bytes]] = {index: {} for index in range(PEOPLE)}
    for who, data in recorded(grid, "unmask").items():
        for owner, value in UnmaskReply.from_bytes(data).seed_shares.items():
            shares[owner][order.index(who) + 1] = value
    length = RoundPlan.of(task).layout.dimension
    best: dict[int, NDArray[np.uint32]] = {}
    for who, data in recorded(grid, "collect").items():
        seed = shamir.combine(shares[order.index(who)], graph.threshold)
        own = masks.expand(self_mask_key(seed, context), length, task.ring_bits)
        masked = unpack(CollectReply.from_bytes(data).masked, length, task.ring_bits)
        best[who] = (masked - own) & masks.ring_mask(task.ring_bits)
    # The record is complete: from the same vectors the sum, which the server may know, does come out.
    total = np.sum([best[who] for who in range(PEOPLE)], axis=0, dtype=np.uint32)
    assert np.array_equal(total & 0xFFFF, outcome.integer_sum & 0xFFFF)
    return task, best, [data for stage in ("advertise", "share", "collect", "unmask")
                        for data in recorded(grid, stage).values()]  # fmt: skip


def test_a_curious_server_finds_no_contribution_in_its_whole_record(tmp_path: Path) -> None:
    task, best, _ = curious_server(tmp_path)
    for person, values in best.items():
        assert abs(correlation(values, task, person)) < 5 / np.sqrt(SIZE)
    # Uniform: chi-square over 16 bins of all values (15 degrees of freedom; 50 has probability 1e-5).
    counts = np.bincount(np.concatenate(list(best.values())) >> (task.ring_bits - 4), minlength=16)
    expected = counts.sum() / 16
    assert float(((counts - expected) ** 2 / expected).sum()) < 50
    # Unrelated between people: no pair of vectors shares a mask.
    centred = np.array([values.astype(float) - 2 ** (task.ring_bits - 1) for values in best.values()])
    pairs = np.corrcoef(centred)[np.triu_indices(PEOPLE, 1)]
    assert np.abs(pairs).max() < 6 / np.sqrt(SIZE)


def test_the_same_attack_finds_everybody_when_the_masks_are_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "expand", lambda key, length, bits: np.zeros(length, dtype=np.uint32))
    task, best, _ = curious_server(tmp_path)
    assert min(correlation(values, task, person) for person, values in best.items()) > 0.99


def test_no_message_carries_a_contribution_in_the_clear(tmp_path: Path) -> None:
    homes = make_fleet(tmp_path / "devices", 4)
    grid = grid_of(homes, record_payloads=True)
    with recorded_contributions() as seen:
        run_fleet(grid, settings_of(), tmp_path / "out", MeanAlgorithm(SIZE))
    everything = b"".join(transfer.payload or b"" for transfer in grid.transfers)
    stored = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    for (_, person), values in seen.items():
        needles = [
            (values & 0xFFFF).astype("<u2").tobytes()[20:40],
            values.astype("<i8").tobytes()[80:160],
            vector_of(person, SIZE).tobytes()[80:160],
        ]
        assert not any(needle in everything or needle in stored for needle in needles)
