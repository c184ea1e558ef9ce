"""The device half of a secure sum: five steps from a saved state to the next. See `protocol.secure_sum`."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from protocol import codec, masks, shamir
from protocol.clipping import JointLayout
from protocol.device_round import DeviceRound, Stage
from protocol.errors import ProtocolError
from protocol.keys import AgreementKey, SigningKey, seal, unseal
from protocol.messages import (
    AdvertiseReply,
    CollectReply,
    CollectRequest,
    ConfirmReply,
    ConfirmRequest,
    RoundTask,
    ShareReply,
    ShareRequest,
    SurvivorList,
    UnmaskReply,
    UnmaskRequest,
)
from protocol.roster import (
    add_pairwise,
    advertisement_transcript,
    check_roster,
    roster_digest,
    self_mask_key,
)
from protocol.survivor_list import check_quorum, survivors_transcript

_SHARE_BYTES = shamir.SHARE_BYTES


def advertise(task: RoundTask, identity: SigningKey) -> tuple[DeviceRound, AdvertiseReply]:
    """Make fresh keys for this round and sign them. Keys are never reused in another round or attempt."""
    masking, sharing = AgreementKey.generate(), AgreementKey.generate()
    digest = task.digest()
    transcript = advertisement_transcript(digest, identity.public_bytes, masking.public_bytes, sharing.public_bytes)
    state = DeviceRound(
        task=task,
        stage=Stage.ADVERTISED,
        identity=identity.public_bytes,
        masking_private=masking.private_bytes,
        sharing_private=sharing.private_bytes,
        mask_seed=secrets.token_bytes(32),
    )
    reply = AdvertiseReply(
        task_digest=digest,
        identity=identity.public_bytes,
        masking_public=masking.public_bytes,
        sharing_public=sharing.public_bytes,
        signature=identity.sign(transcript),
    )
    return state, reply


def share(
    state: DeviceRound,
    request: ShareRequest,
    *,
    fleet: Collection[bytes] | None,
    minimum_roster: int = 0,
) -> tuple[DeviceRound, ShareReply]:
    """Check the roster and send each neighbour one sealed share of both secrets.

    `fleet`: the pinned Ed25519 identities of all enrolled devices, or None where nobody is enrolled (then the
    server could invent peers, and `minimum_roster` means little). `minimum_roster`: the owner's own minimum,
    on top of the task's `minimum_survivors`.
    """
    _expect(state, request.task_digest, Stage.ADVERTISED)
    check_roster(state.task, request.roster, fleet=fleet)
    smallest = max(minimum_roster, state.task.minimum_survivors)
    if len(request.roster) < smallest:
        raise ProtocolError(f"the roster has {len(request.roster)} devices, this device asks for {smallest}")
    roster = tuple((entry.identity, entry.masking_public, entry.sharing_public) for entry in request.roster)
    state = replace(state, stage=Stage.SHARED, roster=roster)
    mine = (
        AgreementKey.from_private_bytes(state.masking_private),
        AgreementKey.from_private_bytes(state.sharing_private),
    )
    me = state.index
    if roster[me][1:] != (mine[0].public_bytes, mine[1].public_bytes):
        raise ProtocolError("the roster holds other keys for this device than it advertised; it takes no part")
    graph = state.graph
    neighbours = graph.neighbours(me)
    points = [index + 1 for index in neighbours]
    seed_shares = shamir.split(state.mask_seed, graph.threshold, points)
    key_shares = shamir.split(state.masking_private, graph.threshold, points)
    context = roster_digest(state.task, roster)
    label = b"penchant/share-box/1" + context
    keys = {peer: mine[1].shared_key(roster[peer][2], label) for peer in neighbours}
    boxes = {
        peer: seal(key, seed_shares[peer + 1] + key_shares[peer + 1], _box_label(context, me, peer))
        for peer, key in keys.items()
    }
    commitment = hashlib.sha256(state.mask_seed).digest()
    state = replace(state, box_keys=tuple(keys.items()))
    return state, ShareReply(task_digest=request.task_digest, seed_commitment=commitment, boxes=boxes)


def check_collect(state: DeviceRound, request: CollectRequest) -> None:
    """The checks of `mask` without the vector: refuse before any training is done for nothing."""
    _open_boxes(state, request)


def mask(state: DeviceRound, request: CollectRequest, values: NDArray[np.integer]) -> tuple[DeviceRound, CollectReply]:
    """Mask this person's noisy integer vector, shape (joint dimension,), any integers (reduced mod 2^b).

    Happens once per round: a second, different vector under the same masks would reveal the difference.
    """
    _open_boxes(state, request)
    task, roster, me = state.task, state.roster, state.index
    length = JointLayout(task.update_dimension).dimension
    if values.shape != (length,):
        raise ProtocolError(f"the vector has shape {values.shape}, this round sums ({length},)")
    context = roster_digest(task, roster)
    total = masks.reduce_to_ring(values, task.ring_bits)
    total += masks.expand(self_mask_key(state.mask_seed, context), length, task.ring_bits)
    masking = AgreementKey.from_private_bytes(state.masking_private)
    for peer in request.boxes:
        total = add_pairwise(total, masking, roster, me, peer, context, task.ring_bits)
    masked = codec.pack(total & masks.ring_mask(task.ring_bits), task.ring_bits)
    state = replace(state, stage=Stage.MASKED, boxes=tuple(sorted(request.boxes.items())))
    return state, CollectReply(task_digest=request.task_digest, masked=masked)


def confirm(state: DeviceRound, request: ConfirmRequest, identity: SigningKey) -> tuple[DeviceRound, ConfirmReply]:
    """Sign the list of survivors. A device signs one list in a round, and later answers no other."""
    _expect(state, request.task_digest, Stage.MASKED, Stage.CONFIRMED)
    if identity.public_bytes != state.identity:
        raise ProtocolError("the list of survivors must be signed by the identity that advertised")
    _check_survivors(state, request)
    listed = _one_list(state, request)
    signature = identity.sign(survivors_transcript(state.task, state.roster, request))
    reply = ConfirmReply(task_digest=request.task_digest, signature=signature)
    return replace(state, stage=Stage.CONFIRMED, survivor_list=listed), reply


def unmask(state: DeviceRound, request: UnmaskRequest) -> tuple[DeviceRound, UnmaskReply]:
    """Reveal one share per neighbour, of the seed of a survivor or of the masking key of a dropped device.

    Answers one list of survivors only (again and again if it is the same), signed by a quorum where the graph needs
    one; a device that was away when the others signed may answer too. Raises ProtocolError on everything else.
    """
    _expect(state, request.task_digest, Stage.MASKED, Stage.CONFIRMED, Stage.UNMASKED)
    survivors, dropped = _check_survivors(state, request)
    listed = _one_list(state, request)
    if state.graph.needs_confirmation:
        check_quorum(state.task, state.roster, request, request.signatures)
    context, me, keys = roster_digest(state.task, state.roster), state.index, dict(state.box_keys)
    seed_shares, key_shares = {}, {}
    for peer, box in state.boxes:
        plain = unseal(keys[peer], box, _box_label(context, peer, me))
        if peer in survivors:
            seed_shares[peer] = plain[:_SHARE_BYTES]
        else:
            key_shares[peer] = plain[_SHARE_BYTES:]
    if dropped & seed_shares.keys() or survivors & key_shares.keys():
        raise ProtocolError("internal: a share of the wrong kind was selected; nothing is sent")
    state = replace(state, stage=Stage.UNMASKED, survivor_list=listed)
    return state, UnmaskReply(task_digest=request.task_digest, seed_shares=seed_shares, key_shares=key_shares)


def _box_label(context: bytes, sender: int, recipient: int) -> bytes:
    return context + sender.to_bytes(4, "big") + recipient.to_bytes(4, "big")


def _one_list(state: DeviceRound, request: SurvivorList) -> bytes:
    """SHA-256 of the list; ProtocolError if this device has signed or answered another."""
    listed = hashlib.sha256(survivors_transcript(state.task, state.roster, request)).digest()
    if state.survivor_list not in (b"", listed):
        raise ProtocolError("this device has already answered another list of survivors; it answers only one")
    return listed


def _expect(state: DeviceRound, task_digest: str, *stages: Stage) -> None:
    if task_digest != state.task.digest():
        raise ProtocolError("this message belongs to another task than the round this device is in")
    if state.stage not in stages:
        raise ProtocolError(
            f"this device stands at {state.stage.name.lower()}, the message expects {stages[0].name.lower()}"
        )


def _open_boxes(state: DeviceRound, request: CollectRequest) -> None:
    """All boxes must open now: a neighbour whose box fails would have masked with us while we ignore it."""
    _expect(state, request.task_digest, Stage.SHARED)
    graph, me, context = state.graph, state.index, roster_digest(state.task, state.roster)
    if not set(request.boxes) <= set(graph.neighbours(me)):
        raise ProtocolError("a box came from a device that is not a neighbour")
    if len(request.boxes) < graph.threshold:
        raise ProtocolError(
            f"only {len(request.boxes)} neighbours are left, {graph.threshold} are needed; nothing is sent"
        )
    if graph.degree == graph.size - 1 and len(request.boxes) + 1 < state.task.minimum_survivors:
        raise ProtocolError(f"{len(request.boxes) + 1} devices left, too few for the noise; nothing is sent")
    keys = dict(state.box_keys)
    for peer, box in request.boxes.items():
        unseal(keys[peer], box, _box_label(context, peer, me))


def _check_survivors(state: DeviceRound, request: SurvivorList) -> tuple[set[int], set[int]]:
    survivors, dropped = set(request.survivors), set(request.dropped)
    named, senders, graph = survivors | dropped, {peer for peer, _ in state.boxes}, state.graph
    if len(named) != len(request.survivors) + len(request.dropped):
        raise ProtocolError("the list of survivors names a device twice; this device reveals nothing")
    if named and max(named) >= len(state.roster):
        raise ProtocolError("the list of survivors names a device outside the roster")
    if state.index not in survivors:
        raise ProtocolError("the list of survivors leaves this device out, which did send its vector")
    if len(survivors) < state.task.minimum_survivors:
        raise ProtocolError(f"{len(survivors)} survivors, but the noise needs {state.task.minimum_survivors}")
    if not senders <= named:
        raise ProtocolError("the list of survivors leaves out a neighbour whose shares this device holds")
    if named & set(graph.neighbours(state.index)) - senders:
        raise ProtocolError("the list of survivors names a neighbour whose shares never arrived here")
    if len(senders & survivors) < graph.threshold:
        raise ProtocolError("too few of this device's neighbours survived to hide it; nothing is revealed")
    return survivors, dropped
