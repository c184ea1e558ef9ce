"""The sum is exact whoever vanishes, and a device refuses every request that would bare somebody."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import codec, masks, secure_sum
from protocol.errors import ProtocolError
from protocol.keys import AgreementKey, SigningKey
from protocol.messages import (
    AdvertiseReply,
    CollectReply,
    CollectRequest,
    ConfirmReply,
    ConfirmRequest,
    ShareReply,
    UnmaskReply,
    UnmaskRequest,
)
from protocol.roster import add_pairwise, roster_digest, self_mask_key
from protocol.secure_sum import ServerRound
from protocol.survivor_list import survivors_transcript
from tests.protocol.secure_sum_fleet import SmallFleet, make_task, random_vectors


def expected_sum(fleet, vectors, survivors):
    total = sum(vectors[device] for device in survivors)
    return masks.reduce_to_ring(total, fleet.task.ring_bits)


def run_round(fleet, vectors, gone=((), (), (), (), ())):
    requests = fleet.share(fleet.advertise(gone[0]), gone[1])
    request = fleet.collect(requests, vectors, gone[2])
    survivors = sorted(fleet.states)
    return fleet.unmask(fleet.confirm(request, gone[3]), gone[4]), survivors


@settings(max_examples=25, deadline=None)
@given(
    cohort=st.integers(3, 12),
    ring_bits=st.sampled_from([8, 12, 16, 20, 32]),
    dimension=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
def test_sum_is_exact_when_everybody_stays(cohort, ring_bits, dimension, seed):
    fleet = SmallFleet(make_task(cohort, ring_bits=ring_bits, dimension=dimension))
    vectors = random_vectors(fleet, np.random.default_rng(seed))
    total, survivors = run_round(fleet, vectors)
    assert survivors == list(range(cohort))
    np.testing.assert_array_equal(total, expected_sum(fleet, vectors, survivors))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), stage=st.integers(0, 4), cohort=st.integers(6, 18))
def test_sum_is_exact_when_a_third_vanishes_at_one_stage(seed, stage, cohort):
    rng = np.random.default_rng(seed)
    fleet = SmallFleet(make_task(cohort))
    vectors = random_vectors(fleet, rng)
    gone = [()] * 5
    gone[stage] = rng.permutation(cohort)[: cohort // 3].tolist()
    total, survivors = run_round(fleet, vectors, gone)
    np.testing.assert_array_equal(total, expected_sum(fleet, vectors, survivors))


@pytest.mark.parametrize("stages", [(0, 1, 4), (0, 2, 4), (0, 3, 4)])
def test_sum_is_exact_when_a_third_vanishes_before_the_roster_and_on_both_sides_of_the_signatures(stages):
    rng = np.random.default_rng(5)
    fleet = SmallFleet(make_task(27))
    vectors = random_vectors(fleet, rng)
    left, gone = list(range(27)), [(), (), (), (), ()]
    for stage in stages:
        gone[stage] = rng.permutation(left)[: len(left) // 3].tolist()
        left = [device for device in left if device not in gone[stage]]
    total, survivors = run_round(fleet, vectors, gone)
    np.testing.assert_array_equal(total, expected_sum(fleet, vectors, survivors))


def test_sum_is_exact_over_a_sparse_graph_with_dropouts_at_every_stage():
    rng = np.random.default_rng(6)
    fleet = SmallFleet(make_task(24, graph_degree=12, graph_threshold=4))
    vectors = random_vectors(fleet, rng)
    order = rng.permutation(24).tolist()
    # Eight vanish once the roster stands: wherever they are on the circle, four of twelve neighbours are left.
    gone = (order[:2], order[2:4], order[4:7], order[7:9], order[9:10])
    total, survivors = run_round(fleet, vectors, gone)
    assert fleet.server.graph.degree == 12
    assert len(survivors) == 17
    np.testing.assert_array_equal(total, expected_sum(fleet, vectors, survivors))


def test_too_few_survivors_abort_and_no_device_unmasks():
    fleet = SmallFleet(make_task(9, minimum_survivors=7))
    vectors = random_vectors(fleet, np.random.default_rng(0))
    requests = fleet.share(fleet.advertise())
    with pytest.raises(ProtocolError, match="7 are needed"):
        fleet.collect(requests, vectors, gone=[0, 1, 2])
    request = UnmaskRequest(task_digest=fleet.task.digest(), survivors=tuple(range(3, 9)), dropped=(0, 1, 2))
    with pytest.raises(ProtocolError, match="the noise needs 7"):
        secure_sum.unmask(fleet.states[5], request)


def test_below_the_threshold_the_sum_stays_masked():
    fleet = SmallFleet(make_task(9))
    vectors = random_vectors(fleet, np.random.default_rng(0))
    request = fleet.confirm(fleet.collect(fleet.share(fleet.advertise()), vectors))
    assert not fleet.server.ready()
    with pytest.raises(ProtocolError, match="shares for one device"):
        fleet.unmask(request, gone=range(fleet.server.graph.threshold, 9))


def test_server_cannot_read_a_contribution_from_what_it_receives():
    """The vector itself appears nowhere, and the masked one is as far from it as from any other vector."""
    fleet = SmallFleet(make_task(8, dimension=2000, ring_bits=16))
    vectors = {device: np.full(fleet.length, 1234 + device, dtype=np.int64) for device in range(8)}
    run_round(fleet, vectors)
    collected = [data for data in fleet.received if len(data) > 2 * fleet.length]
    assert len(collected) == 8
    for device, data in enumerate(collected):
        plain = codec.pack(masks.reduce_to_ring(vectors[device], 16), 16)
        assert plain not in data
        tail = np.frombuffer(data[-2 * fleet.length :], dtype=np.uint8)
        # Uniform bytes: a chi-square over 256 values stays near 255 (standard deviation 22.6).
        counts = np.bincount(tail, minlength=256)
        assert ((counts - tail.size / 256) ** 2 / (tail.size / 256)).sum() < 255 + 8 * 22.6


def test_without_the_pairwise_masks_the_seed_alone_would_bare_a_contribution():
    """The attack the graph prevents: shows that the test above would notice if masks were missing."""
    fleet = SmallFleet(make_task(5))
    vectors = random_vectors(fleet, np.random.default_rng(1))
    requests = fleet.share(fleet.advertise())
    state, reply = secure_sum.mask(fleet.states[0], requests[0], vectors[0])
    masked = codec.unpack(reply.masked, fleet.length, 16)
    context = roster_digest(fleet.task, state.roster)
    unseeded = masked - masks.expand(self_mask_key(state.mask_seed, context), fleet.length, 16)
    truth = masks.reduce_to_ring(vectors[0], 16)
    assert not np.array_equal(unseeded & np.uint32(0xFFFF), truth)
    removed = unseeded.copy()
    for peer in range(1, 5):
        key = AgreementKey.from_private_bytes(fleet.states[peer].masking_private)
        removed = add_pairwise(removed, key, state.roster, peer, 0, context, 16)
    np.testing.assert_array_equal(removed & np.uint32(0xFFFF), truth)


def test_masks_differ_between_rounds_and_rosters():
    fleet, other = SmallFleet(make_task(4)), SmallFleet(make_task(4, attempt=1))
    zero = {device: np.zeros(fleet.length, dtype=np.int64) for device in range(4)}
    for one in (fleet, other):
        one.collect(one.share(one.advertise()), zero)
    assert not set(fleet.received[-4:]) & set(other.received[-4:])


@pytest.fixture
def masked():
    fleet = SmallFleet(make_task(9))
    requests = fleet.share(fleet.advertise())
    vectors = random_vectors(fleet, np.random.default_rng(3))
    listed = fleet.collect(requests, vectors, gone=[8])
    return fleet, requests, vectors, listed


def with_signatures(fleet, request, signers):
    """The list with signatures that the devices gave, whatever else they would sign."""
    signatures = {
        device: fleet.keys[device].sign(survivors_transcript(fleet.task, fleet.states[device].roster, request))
        for device in signers
    }
    return UnmaskRequest(
        task_digest=request.task_digest, survivors=request.survivors, dropped=request.dropped, signatures=signatures
    )


def test_steps_out_of_order_are_refused(masked):
    fleet, requests, vectors, request = masked
    with pytest.raises(ProtocolError, match="stands at masked"):
        secure_sum.mask(fleet.states[0], requests[0], vectors[0])
    fresh, _ = secure_sum.advertise(fleet.task, fleet.keys[0])
    with pytest.raises(ProtocolError, match="stands at advertised"):
        secure_sum.mask(fresh, requests[0], vectors[0])
    with pytest.raises(ProtocolError, match="stands at advertised"):
        secure_sum.confirm(fresh, request, fleet.keys[0])
    with pytest.raises(ProtocolError, match="stands at advertised"):
        secure_sum.unmask(fresh, with_signatures(fleet, request, range(8)))
    with pytest.raises(ProtocolError, match="another task"):
        secure_sum.confirm(fleet.states[0], request.model_copy(update={"task_digest": "c" * 64}), fleet.keys[0])
    with pytest.raises(ProtocolError, match="identity that advertised"):
        secure_sum.confirm(fleet.states[0], request, fleet.keys[1])


def test_never_both_kinds_of_share_for_one_device(masked):
    fleet, _, _, listed = masked
    request = fleet.confirm(listed)
    state, reply = secure_sum.unmask(fleet.states[0], request)
    assert set(reply.seed_shares) == set(range(1, 8)) and set(reply.key_shares) == {8}
    assert not set(reply.seed_shares) & set(reply.key_shares)
    # The same list again: the same answer. Another list, ever: refused.
    assert secure_sum.unmask(state, request)[1] == reply
    other = listed.model_copy(update={"survivors": (0, 1, 2, 3, 4, 5, 6), "dropped": (7, 8)})
    switched = with_signatures(fleet, other, range(7))
    with pytest.raises(ProtocolError, match="only one"):
        secure_sum.unmask(state, switched)
    restored = secure_sum.DeviceRound.from_bytes(state.to_bytes())
    with pytest.raises(ProtocolError, match="only one"):
        secure_sum.unmask(restored, switched)


@pytest.mark.parametrize(
    ("survivors", "dropped", "match"),
    [
        ((0, 1, 2, 3, 4, 5, 6, 7), (7, 8), "names a device twice"),
        ((0, 1, 2, 3, 4, 5, 6, 7, 7), (8,), "names a device twice"),
        ((1, 2, 3, 4, 5, 6, 7), (0, 8), "leaves this device out"),
        ((0, 1, 2, 3, 4, 5, 6, 7), (), "leaves out a neighbour"),
        ((0, 1, 2, 3, 4, 5, 6, 7), (8, 9), "outside the roster"),
        ((0, 1), (2, 3, 4, 5, 6, 7, 8), "too few of this device's neighbours"),
    ],
)
def test_inconsistent_survivors_are_refused(masked, survivors, dropped, match):
    fleet, _, _, request = masked
    with pytest.raises(ProtocolError, match=match):
        secure_sum.confirm(
            fleet.states[0],
            ConfirmRequest(task_digest=request.task_digest, survivors=survivors, dropped=dropped),
            fleet.keys[0],
        )
    with pytest.raises(ProtocolError, match=match):
        secure_sum.unmask(
            fleet.states[0],
            UnmaskRequest(task_digest=request.task_digest, survivors=survivors, dropped=dropped),
        )


def test_survivor_whose_shares_never_arrived_is_refused():
    """A server that hid devices at collect cannot count them as survivors to meet the noise's minimum."""
    fleet = SmallFleet(make_task(9))
    requests = fleet.share(fleet.advertise(), gone=[8])
    request = fleet.collect(requests, random_vectors(fleet, np.random.default_rng(3)))
    with pytest.raises(ProtocolError, match="never arrived"):
        secure_sum.confirm(fleet.states[0], request.model_copy(update={"survivors": tuple(range(9))}), fleet.keys[0])


def test_a_list_without_a_quorums_signatures_is_answered_by_nobody(masked):
    fleet, _, _, listed = masked
    assert fleet.server.graph.needs_confirmation
    state = fleet.states[0]
    with pytest.raises(ProtocolError, match="0 of 5 signatures"):
        secure_sum.unmask(state, with_signatures(fleet, listed, ()))
    with pytest.raises(ProtocolError, match="4 of 5 signatures"):
        secure_sum.unmask(state, with_signatures(fleet, listed, range(4)))
    with pytest.raises(ProtocolError, match="not a survivor's"):
        fleet.states[8] = state
        secure_sum.unmask(state, with_signatures(fleet, listed, (1, 2, 3, 4, 8)))
    signed = with_signatures(fleet, listed, range(1, 6))
    forged = {**signed.signatures, 5: signed.signatures[4]}
    with pytest.raises(ProtocolError, match="signature is wrong"):
        secure_sum.unmask(state, signed.model_copy(update={"signatures": forged}))
    other = listed.model_copy(update={"survivors": tuple(range(7)), "dropped": (7, 8)})
    elsewhere = with_signatures(fleet, other, range(1, 6)).signatures
    with pytest.raises(ProtocolError, match="signature is wrong"):
        secure_sum.unmask(state, signed.model_copy(update={"signatures": elsewhere}))
    secure_sum.unmask(state, signed)  # the device itself was away when the others signed


def test_a_device_signs_one_list_and_answers_no_other(masked):
    fleet, _, _, listed = masked
    state, reply = secure_sum.confirm(fleet.states[0], listed, fleet.keys[0])
    assert secure_sum.confirm(state, listed, fleet.keys[0])[1] == reply
    other = listed.model_copy(update={"survivors": tuple(range(7)), "dropped": (7, 8)})
    with pytest.raises(ProtocolError, match="only one"):
        secure_sum.confirm(state, other, fleet.keys[0])
    with pytest.raises(ProtocolError, match="only one"):
        secure_sum.unmask(state, with_signatures(fleet, other, range(7)))


def test_the_server_counts_only_survivors_signatures_under_this_list(masked):
    fleet, _, _, listed = masked
    _, reply = secure_sum.confirm(fleet.states[0], listed, fleet.keys[0])
    with pytest.raises(ProtocolError, match="signature is wrong"):
        fleet.server.add_confirmation(fleet.fleet[1], reply)
    with pytest.raises(ProtocolError, match="not among the survivors"):
        fleet.server.add_confirmation(fleet.fleet[8], reply)
    fleet.server.add_confirmation(fleet.fleet[0], reply)
    fleet.server.add_confirmation(fleet.fleet[0], reply)
    with pytest.raises(ProtocolError, match="1 devices signed the list"):
        fleet.server.close_confirm()


def test_boxes_that_do_not_open_are_refused():
    fleet = SmallFleet(make_task(6))
    requests = fleet.share(fleet.advertise())
    boxes = requests[0].boxes
    for changed, match in [
        ({**boxes, 1: boxes[1][:-1] + bytes([boxes[1][-1] ^ 1])}, "does not open"),
        ({**boxes, 1: boxes[2]}, "does not open"),
        ({**boxes, 0: boxes[2]}, "not a neighbour"),
        ({1: boxes[1]}, "neighbours are left"),
    ]:
        request = CollectRequest(task_digest=fleet.task.digest(), boxes=changed)
        with pytest.raises(ProtocolError, match=match):
            secure_sum.check_collect(fleet.states[0], request)


def test_too_few_boxes_for_the_noise_are_refused_before_training():
    fleet = SmallFleet(make_task(9, minimum_survivors=7))
    requests = fleet.share(fleet.advertise())
    boxes = {peer: box for peer, box in requests[0].boxes.items() if peer < 6}
    with pytest.raises(ProtocolError, match="too few for the noise"):
        secure_sum.check_collect(fleet.states[0], CollectRequest(task_digest=fleet.task.digest(), boxes=boxes))


def test_wrong_shares_are_noticed_not_summed(masked):
    fleet, _, _, listed = masked
    request = fleet.confirm(listed)
    for device in range(8):
        _, reply = secure_sum.unmask(fleet.states[device], request)
        if device == 0:
            wrong = {**reply.seed_shares, 1: bytes(33)}
            reply = UnmaskReply(task_digest=reply.task_digest, seed_shares=wrong, key_shares=reply.key_shares)
        fleet.server.add_unmask(fleet.fleet[device], reply)
    with pytest.raises(ProtocolError, match=r"wrong shares|do not belong"):
        fleet.server.recover_sum()


def test_server_refuses_replies_of_the_wrong_kind(masked):
    fleet, _, _, listed = masked
    _, reply = secure_sum.unmask(fleet.states[0], fleet.confirm(listed))
    for seeds, keys in [
        ({}, reply.key_shares),
        (reply.seed_shares, {}),
        ({**reply.seed_shares, 8: bytes(33)}, reply.key_shares),
    ]:
        bad = UnmaskReply(task_digest=reply.task_digest, seed_shares=seeds, key_shares=keys)
        with pytest.raises(ProtocolError, match=r"other (seed|key) shares"):
            fleet.server.add_unmask(fleet.fleet[0], bad)
    with pytest.raises(ProtocolError, match="not among the survivors"):
        fleet.server.add_unmask(fleet.fleet[8], reply)
    with pytest.raises(ProtocolError, match="not in the roster"):
        fleet.server.add_unmask(bytes(32), reply)


def test_a_crashed_server_replays_stored_replies_to_the_same_sum():
    fleet = SmallFleet(make_task(7))
    vectors = random_vectors(fleet, np.random.default_rng(2))
    total, _ = run_round(fleet, vectors, ((), (1,), (2,), (), (3,)))
    stored = iter(fleet.received)
    adverts = [AdvertiseReply.from_bytes(next(stored)) for _ in range(7)]
    shares = {device: ShareReply.from_bytes(next(stored)) for device in (0, 2, 3, 4, 5, 6)}
    collected = {device: CollectReply.from_bytes(next(stored)) for device in (0, 3, 4, 5, 6)}
    signed = {device: ConfirmReply.from_bytes(next(stored)) for device in (0, 3, 4, 5, 6)}
    revealed = {device: UnmaskReply.from_bytes(next(stored)) for device in (0, 4, 5, 6)}
    again = ServerRound(fleet.task, fleet=fleet.fleet)
    for advert in reversed(adverts):
        again.add_advertisement(advert)
    again.close_advertise()
    for device in reversed(shares):
        again.add_shares(fleet.fleet[device], shares[device])
    again.close_share()
    for device in reversed(collected):
        again.add_masked(fleet.fleet[device], collected[device])
        again.add_masked(fleet.fleet[device], collected[device])  # counted once
    assert again.close_collect().survivors == (0, 3, 4, 5, 6)
    for device in reversed(signed):
        again.add_confirmation(fleet.fleet[device], signed[device])
    again.close_confirm()
    for device, reply in revealed.items():
        again.add_unmask(fleet.fleet[device], reply)
    np.testing.assert_array_equal(again.recover_sum(), total)


def test_share_and_upload_sizes_fit_the_wire_budget():
    """26 people, 700 values of 16 bits: below 10 kB up per person in all stages together."""
    fleet = SmallFleet(make_task(26, dimension=697))
    run_round(fleet, random_vectors(fleet, np.random.default_rng(0)))
    assert math.fsum(map(len, fleet.received)) / 26 < 6_000


def test_damaged_state_is_refused():
    state, _ = secure_sum.advertise(make_task(4), SigningKey.generate())
    for data in (b"", state.to_bytes()[:-3], b"\x80"):
        with pytest.raises(ProtocolError, match=r"damaged|not CBOR|canonical|invalid field"):
            secure_sum.DeviceRound.from_bytes(data)
    assert state.mask_seed.hex() not in repr(state)
