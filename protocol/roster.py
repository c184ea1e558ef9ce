"""What device and server must compute alike in a round: signed rosters, contexts, keys and signs of the
masks."""

import hashlib
from collections.abc import Collection, Sequence
from functools import lru_cache

from protocol import masks
from protocol.errors import ProtocolError
from protocol.graph import Graph
from protocol.keys import AgreementKey, verify_once
from protocol.messages import AdvertiseReply, RoundTask

RosterKeys = tuple[bytes, bytes, bytes]
"""(identity, masking public key, sharing public key) of one device, 32 bytes each."""


def advertisement_transcript(task_digest: str, identity: bytes, masking: bytes, sharing: bytes) -> bytes:
    """The bytes a device signs: they bind its keys to one task (run, round, attempt, every parameter)."""
    return b"penchant/advertise/1" + bytes.fromhex(task_digest) + identity + masking + sharing


def check_advertisement(task_digest: str, entry: AdvertiseReply) -> None:
    """Raises ProtocolError unless `entry` is signed by its own identity for exactly this task."""
    if entry.task_digest != task_digest:
        raise ProtocolError("an advertisement belongs to another task")
    transcript = advertisement_transcript(task_digest, entry.identity, entry.masking_public, entry.sharing_public)
    verify_once(entry.identity, transcript, entry.signature)


def check_roster(task: RoundTask, roster: Collection[AdvertiseReply], *, fleet: Collection[bytes] | None) -> None:
    """Raises ProtocolError unless the roster is ascending, signed, within the fleet and within the planned
    cohort."""
    digest, known = task.digest(), None if fleet is None else frozenset(fleet)
    if len(roster) > task.cohort_size:
        raise ProtocolError(f"the roster has {len(roster)} devices, the task was planned for {task.cohort_size}")
    previous = b""
    public_keys: set[bytes] = set()
    for entry in roster:
        if entry.identity <= previous:
            raise ProtocolError("the roster is not in ascending order without duplicates")
        previous = entry.identity
        if known is not None and entry.identity not in known:
            raise ProtocolError("the roster names a device that is not enrolled in this fleet")
        check_advertisement(digest, entry)
        public_keys.update((entry.masking_public, entry.sharing_public))
    if len(public_keys) != 2 * len(roster):
        raise ProtocolError("two devices in the roster use the same key")


def graph_of(task: RoundTask, roster: Sequence[RosterKeys]) -> Graph:
    """The neighbour graph over the devices that advertised; the planned degree and threshold shrink with
    them.

    Its seed depends on everybody's fresh keys, so that who neighbours whom is not the server's choice alone.
    """
    seed = hashlib.sha256(
        b"penchant/graph/1" + task.graph_seed.to_bytes(8, "big") + roster_digest(task, roster)
    ).digest()
    return Graph.over(len(roster), seed=seed, degree=task.graph_degree, threshold=task.graph_threshold)


def roster_digest(task: RoundTask, roster: Sequence[RosterKeys]) -> bytes:
    """32 bytes that bind masks and boxes to this task and this exact roster."""
    return _digest_of(task.digest(), tuple(roster))


@lru_cache(maxsize=32)
def _digest_of(task_digest: str, roster: tuple[RosterKeys, ...]) -> bytes:
    """Remembered: a round asks for it many times, and an in-process fleet once per device."""
    hasher = hashlib.sha256(b"penchant/roster/1" + bytes.fromhex(task_digest))
    for identity, masking, sharing in roster:
        hasher.update(identity + masking + sharing)
    return hasher.digest()


def self_mask_key(mask_seed: bytes, context: bytes) -> bytes:
    """Key of PRG(b_u). The seed is uniform, so one hash with a label separates it from every other use."""
    return hashlib.sha256(b"penchant/self-mask/1" + context + mask_seed).digest()


def add_pairwise(
    total: masks.Residues,
    masking: AgreementKey,
    roster: Sequence[RosterKeys],
    own: int,
    peer: int,
    context: bytes,
    ring_bits: int,
) -> masks.Residues:
    """`total` (changed in place) with the mask that device `own` (whose key `masking` is) adds for `peer`.

    The lower index adds, the higher subtracts, so the two cancel in the sum.
    """
    key = masking.shared_key(roster[peer][1], b"penchant/pairwise-mask/1" + context)
    mask_values = masks.expand(key, total.shape[0], ring_bits)
    if own < peer:
        total += mask_values
    else:
        total -= mask_values
    return total
