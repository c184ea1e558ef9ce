"""A lying server against real devices: one attack per test, with the honest run on the same devices beside it.

The curious server, which follows the protocol and studies its record, is in `test_what_the_server_sees`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import protocol.secure_sum_device
from client.enrol import pinned_fleet
from client.ledger import DeviceLedger
from edge_runtime.device import Device
from protocol import masks, secure_sum, shamir
from protocol.clipping import JointLayout
from protocol.codec import unpack
from protocol.errors import ProtocolError
from protocol.fleet_trust import FleetAuthority, ReleaseStatement, sign_document
from protocol.keys import AgreementKey, SigningKey
from protocol.messages import (
    AdvertiseRequest,
    ConfirmRequest,
    RefusalReason,
    SetupReply,
    SetupRequest,
    ShareRequest,
    SignedRelease,
    SurvivorList,
    UnmaskReply,
    UnmaskRequest,
)
from protocol.roster import add_pairwise, roster_digest, self_mask_key
from tests.device_help import signed_release, signed_task
from tests.fleet_help import AUTHORITY, BASE_SHA256, CERTIFICATE, SERVER_KEY, recorded_contributions
from tests.round_help import HandRun

PEOPLE, VICTIM = 8, 0
EVERYBODY = range(PEOPLE)


def with_list(listed: SurvivorList, dropped: set[int], signatures: dict[int, bytes]) -> UnmaskRequest:
    survivors = tuple(sorted(set(listed.survivors) - dropped))
    return UnmaskRequest(
        task_digest=listed.task_digest,
        survivors=survivors,
        dropped=tuple(sorted(set(listed.dropped) | dropped)),
        signatures=signatures,
    )


def revealed(run: HandRun, requests: dict[int, UnmaskRequest]) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """The shares of the victim's seed and of its masking key, by point, that these devices give up."""
    seeds: dict[int, bytes] = {}
    keys: dict[int, bytes] = {}
    victim = run.index(VICTIM)
    for device, request in requests.items():
        try:
            reply = run.ask("unmask", device, request, UnmaskReply)
        except ProtocolError:
            continue
        seeds |= {run.index(device) + 1: value for peer, value in reply.seed_shares.items() if peer == victim}
        keys |= {run.index(device) + 1: value for peer, value in reply.key_shares.items() if peer == victim}
    return seeds, keys


def bare_vector(run: HandRun, seeds: dict[int, bytes], keys: dict[int, bytes]) -> NDArray[np.uint32]:
    """The victim's vector from both of its secrets: what no server may ever be able to compute."""
    task, graph, victim = run.task, run.server.graph, run.index(VICTIM)
    offers = sorted(run.offers.values(), key=lambda offer: offer.identity)
    roster = [(offer.identity, offer.masking_public, offer.sharing_public) for offer in offers]
    context, length = roster_digest(task, roster), JointLayout(task.update_dimension).dimension
    values = unpack(run.masked[VICTIM], length, task.ring_bits)
    seed_key = self_mask_key(shamir.combine(seeds, graph.threshold), context)
    values = values - masks.expand(seed_key, length, task.ring_bits)
    masking = AgreementKey.from_private_bytes(shamir.combine(keys, graph.threshold))
    sums = np.zeros(length, dtype=np.uint32)
    for peer in graph.neighbours(victim):
        sums = add_pairwise(sums, masking, roster, victim, peer, context, task.ring_bits)
    return (values - sums) & masks.ring_mask(task.ring_bits)


def split_view(run: HandRun) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """Tell devices 1 to 3 that everybody survived, 4 to 7 that the victim dropped; use every signature there is."""
    truth = run.collect(run.share(run.advertise()))
    victim = run.index(VICTIM)
    alive, gone = with_list(truth, set(), {}), with_list(truth, {victim}, {})
    alive = alive.model_copy(update={"signatures": run.signatures(alive, (0, 1, 2, 3))})
    gone = gone.model_copy(update={"signatures": run.signatures(gone, (4, 5, 6, 7))})
    assert (len(alive.signatures), len(gone.signatures)) == (4, 4)
    return revealed(run, {**dict.fromkeys((1, 2, 3), alive), **dict.fromkeys((4, 5, 6, 7), gone)})


def test_a_split_view_gets_no_share_at_all(tmp_path: Path) -> None:
    run = HandRun(tmp_path, PEOPLE)
    assert run.server.task.graph_threshold <= 3  # each side could rebuild a secret by itself
    with recorded_contributions() as seen:
        assert split_view(run) == ({}, {})
        run.begin(run.make_task(attempt=1))
        assert np.array_equal(run.honest_sum(), run.true_sum(seen))


def test_the_same_split_view_bares_the_victim_where_signatures_are_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the attack is real, and it is the quorum of signatures that stops it."""
    monkeypatch.setattr(protocol.secure_sum_device, "check_quorum", lambda *arguments: None)
    run = HandRun(tmp_path, PEOPLE)
    with recorded_contributions() as seen:
        vector = bare_vector(run, *split_view(run))
    assert np.array_equal(vector, seen[run.task.digest(), VICTIM] & 0xFFFF)


def test_a_server_that_asks_for_both_kinds_of_share_gets_one(tmp_path: Path) -> None:
    """It has the victim's vector, lets everybody sign that the victim dropped, and then asks for its seed as well."""
    run = HandRun(tmp_path, PEOPLE)
    with recorded_contributions() as seen:
        truth = run.collect(run.share(run.advertise()))
        lie = with_list(truth, {run.index(VICTIM)}, {})
        signatures = run.signatures(lie, EVERYBODY)
        assert len(signatures) == PEOPLE - 1  # the victim knows better
        lie = lie.model_copy(update={"signatures": signatures})
        seeds, keys = revealed(run, dict.fromkeys(range(1, PEOPLE), lie))
        assert seeds == {} and len(keys) == PEOPLE - 1
        honest = with_list(truth, set(), run.signatures(truth, EVERYBODY))
        assert set(honest.signatures) == {run.index(VICTIM)}  # nobody else signs a second list
        assert {run.refusal("unmask", device, honest) for device in EVERYBODY} == {RefusalReason.STAGE}
        run.begin(run.make_task(attempt=1))
        assert np.array_equal(run.honest_sum(), run.true_sum(seen))


def test_dropping_chosen_devices_to_leave_one_ends_the_round(tmp_path: Path) -> None:
    run = HandRun(tmp_path, PEOPLE)
    with recorded_contributions() as seen:
        roster = run.advertise()
        mine = run.index(VICTIM)
        two = tuple(roster.roster[place] for place in sorted({mine, (mine + 1) % PEOPLE}))
        pair = roster.model_copy(update={"roster": two})
        assert run.refusal("share", VICTIM, pair) is RefusalReason.ROSTER
        requests = run.share(roster)
        first = min(requests[VICTIM].boxes)
        alone = requests[VICTIM].model_copy(update={"boxes": {first: requests[VICTIM].boxes[first]}})
        assert run.refusal("collect", VICTIM, alone) is RefusalReason.STAGE
        assert seen == {}  # it did not even train
        truth = run.collect(requests)
        others = {run.index(device) for device in range(1, PEOPLE)}
        for kept in range(3):  # fewer survivors than the noise was sized for
            lie = with_list(truth, others - set(sorted(others)[:kept]), {})
            request = ConfirmRequest(task_digest=lie.task_digest, survivors=lie.survivors, dropped=lie.dropped)
            for device in EVERYBODY:
                assert run.refusal("confirm", device, request) is RefusalReason.STAGE
                assert run.refusal("unmask", device, lie) is RefusalReason.STAGE
        assert np.array_equal(run.unmask(run.confirm(truth)), run.true_sum(seen))


def test_invented_peers_are_refused_whoever_vouches_for_them(tmp_path: Path) -> None:
    run = HandRun(tmp_path, PEOPLE)
    invented = SigningKey.generate()
    with recorded_contributions() as seen:
        roster = run.advertise()
        _, offer = secure_sum.advertise(run.task, invented)
        entries = sorted([*roster.roster[:-1], offer], key=lambda entry: entry.identity)
        crowd = ShareRequest(task_digest=roster.task_digest, roster=tuple(entries))
        honest = [device for device in EVERYBODY if run.offers[device] in entries]
        assert {run.refusal("share", device, crowd) for device in honest} == {RefusalReason.ROSTER}
        with Device.open(run.homes[0]) as device:
            members = pinned_fleet(device).members | {invented.public_bytes}
        # Signed by the server's own key, or by an authority of its own making.
        for forger in (FleetAuthority(AUTHORITY.fleet_id, SERVER_KEY), FleetAuthority("f", SigningKey.generate())):
            lists = SetupRequest(certificate=CERTIFICATE, challenge=bytes(32), roster=forger.enrol(members, serial=9))
            assert {run.refusal("setup", device, lists) for device in EVERYBODY} == {RefusalReason.TRUST}
        assert np.array_equal(run.unmask(run.confirm(run.collect(run.share(roster)))), run.true_sum(seen))


def test_a_rolled_back_roster_does_not_bring_a_struck_device_back(tmp_path: Path) -> None:
    run = HandRun(tmp_path, PEOPLE)
    with Device.open(run.homes[0]) as device:
        everybody = pinned_fleet(device).members
    with Device.open(run.homes[PEOPLE - 1]) as device:
        struck = device.identity.public_bytes
    old = SetupRequest(certificate=CERTIFICATE, challenge=bytes(32), roster=AUTHORITY.enrol(everybody, serial=1))
    new = SetupRequest(
        certificate=CERTIFICATE, challenge=bytes(32), roster=AUTHORITY.enrol(everybody - {struck}, serial=2)
    )
    for device_number in range(PEOPLE - 1):
        assert run.ask("setup", device_number, new, SetupReply).roster_serial == 2
        assert run.refusal("setup", device_number, old) is RefusalReason.TRUST
        # A round of the old list, signed by the real server, is for nobody who knows better.
        assert run.refusal("advertise", device_number, signed_task(run.task)) is RefusalReason.TRUST
    run.people -= 1
    run.begin(run.make_task(cohort_size=PEOPLE - 1).model_copy(update={"roster_serial": 2}))
    with recorded_contributions() as seen:
        assert np.array_equal(run.honest_sum(), run.true_sum(seen))


def test_an_old_task_is_not_carried_out_again(tmp_path: Path) -> None:
    run = HandRun(tmp_path, PEOPLE)
    unseen = run.make_task(round=1, attempt=0)  # signed, but never delivered in its time
    with recorded_contributions() as seen:
        first = signed_task(run.task)
        run.honest_sum()
        before = {device: run.ask("advertise", device, first, type(run.offers[device])) for device in EVERYBODY}
        assert before == run.offers  # the same bytes as then: no fresh keys, nothing to learn
        run.begin(run.make_task(round=1, attempt=1))
        run.honest_sum()
        for device in EVERYBODY:
            assert run.refusal("advertise", device, signed_task(unseen)) is RefusalReason.STAGE
            assert run.refusal("advertise", device, signed_task(run.make_task())) is RefusalReason.STAGE
        run.begin(run.make_task(round=2))
        assert np.array_equal(run.honest_sum(), run.true_sum(seen))
    for home in run.homes:
        with Device.open(home) as device_open:
            assert len(DeviceLedger(device_open.vault).entries()) == 3  # three rounds, three entries


def test_a_task_that_the_fleets_server_did_not_sign_opens_nothing(tmp_path: Path) -> None:
    run = HandRun(tmp_path, PEOPLE)
    thief, body = SigningKey.generate(), run.task
    stolen = AdvertiseRequest(certificate=CERTIFICATE, task=sign_document(body, thief))
    own = FleetAuthority(AUTHORITY.fleet_id, thief).certify(thief.public_bytes)
    expired = AUTHORITY.certify(SERVER_KEY.public_bytes, not_after=1)
    other_fleet = sign_document(body.model_copy(update={"fleet_id": "other"}), SERVER_KEY)
    honest = signed_task(body)
    requests = {
        "another key": stolen,
        "a certificate of its own": AdvertiseRequest(certificate=own, task=sign_document(body, thief)),
        "an expired certificate": AdvertiseRequest(certificate=expired, task=honest.task),
        "another fleet": AdvertiseRequest(certificate=CERTIFICATE, task=other_fleet),
        "a changed task": honest.model_copy(update={"task": honest.task[:-1] + bytes([honest.task[-1] ^ 1])}),
        "no signature": honest.model_copy(update={"task": bytes(64) + honest.task[64:]}),
        "another document": honest.model_copy(
            update={"task": signed_release("shared", b"x", BASE_SHA256).statement},
        ),
    }
    for name, request in requests.items():
        assert run.refusal("advertise", VICTIM, request) is RefusalReason.TRUST, name
    with recorded_contributions() as seen:
        assert np.array_equal(run.honest_sum(), run.true_sum(seen))


def offered(*releases: SignedRelease) -> SetupRequest:
    return SetupRequest(certificate=CERTIFICATE, challenge=bytes(32), releases=releases)


def test_a_tampered_release_is_not_kept(tmp_path: Path) -> None:
    run = HandRun(tmp_path, 3)
    genuine = signed_release("shared", b"weights of round 1", BASE_SHA256, round=1)
    other = signed_release("shared", b"other weights", BASE_SHA256, round=1)
    thief = SigningKey.generate()
    fields: dict[str, Any] = ReleaseStatement.from_bytes(genuine.statement[64:]).model_dump()
    cheaper = sign_document(ReleaseStatement(**{**fields, "epsilon": 0.1}), thief)
    foreign = sign_document(ReleaseStatement(**{**fields, "fleet_id": "other"}), SERVER_KEY)
    cases = {
        "flipped bit": (genuine.model_copy(update={"data": b"Weights of round 1"}), RefusalReason.ARTEFACT),
        "another's statement": (genuine.model_copy(update={"statement": other.statement}), RefusalReason.ARTEFACT),
        "another key": (genuine.model_copy(update={"statement": cheaper}), RefusalReason.TRUST),
        "another fleet": (genuine.model_copy(update={"statement": foreign}), RefusalReason.TRUST),
        "no signature": (
            genuine.model_copy(update={"statement": bytes(64) + genuine.statement[64:]}),
            RefusalReason.TRUST,
        ),
    }
    before = run.ask("setup", 0, offered(), SetupReply).artefacts
    for name, (release, reason) in cases.items():
        assert run.refusal("setup", 0, offered(release)) is reason, name
        assert run.refusal("setup", 0, offered(other, release)) is reason, name  # all or nothing
    assert run.ask("setup", 0, offered(), SetupReply).artefacts == before
    assert set(run.ask("setup", 0, offered(genuine), SetupReply).artefacts) > set(before)


def test_an_old_release_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    run = HandRun(tmp_path, 3)
    old, new = (signed_release("shared", b"weights %d" % number, BASE_SHA256, round=number) for number in (3, 4))
    after = run.ask("setup", 0, offered(new), SetupReply).artefacts
    assert run.refusal("setup", 0, offered(old)) is RefusalReason.ARTEFACT
    assert run.ask("setup", 0, offered(new), SetupReply).artefacts == after  # the same again is no replay
    newer = signed_release("shared", b"weights 5", BASE_SHA256, round=5)
    assert len(run.ask("setup", 0, offered(newer), SetupReply).artefacts) == len(after) + 1


def test_a_refusal_says_nothing_of_the_owners_budget_or_rules(tmp_path: Path) -> None:
    """Two devices with quite different reasons of one kind answer with the same bytes."""
    run = HandRun(tmp_path, 3)
    rules: list[dict[str, Any]] = [{"epsilon_budget": 0.1}, {"epsilon_budget": 7.5}, {"minimum_roster": 99}]
    for home, rule in zip(run.homes, rules, strict=True):
        with Device.open(home) as device:
            device.change_settings(**rule)
    request = signed_task(run.make_task(noise_multiplier=0.0))
    with recorded_contributions():
        reasons = [run.refusal("advertise", device, request) for device in range(3)]
    assert reasons == [RefusalReason.BUDGET, RefusalReason.BUDGET, RefusalReason.ROSTER]
    said = [t.payload for t in run.grid.transfers if (t.stage, t.direction) == ("advertise", "up")]
    assert said[0] == said[1] and len(said[0] or b"") < 40
