"""The server half of a secure sum: replies in, next requests out, the exact sum at the end.

See `protocol.secure_sum`. No I/O and no clock: a server that crashed feeds the replies it had stored into a
new `ServerRound`, in any order, and closes each stage again. For the same replies every `close_*` gives the
same bytes; a reply that arrives after its stage was closed must not be added on resume (store the request
that closed it, or which replies it counted).
"""

import hashlib
from collections.abc import Collection, Mapping
from enum import IntEnum

import numpy as np

from protocol import codec, masks, shamir
from protocol.clipping import JointLayout
from protocol.errors import ProtocolError
from protocol.graph import Graph, quorum
from protocol.keys import AgreementKey, verify_once
from protocol.messages import (
    AdvertiseReply,
    CollectReply,
    CollectRequest,
    ConfirmReply,
    ConfirmRequest,
    RoundTask,
    ShareReply,
    ShareRequest,
    UnmaskReply,
    UnmaskRequest,
)
from protocol.roster import (
    RosterKeys,
    add_pairwise,
    check_advertisement,
    graph_of,
    roster_digest,
    self_mask_key,
)
from protocol.survivor_list import survivors_transcript


class ServerStage(IntEnum):
    """What the server is gathering."""

    ADVERTISE = 1
    SHARE = 2
    COLLECT = 3
    CONFIRM = 4
    UNMASK = 5


class ServerRound:
    """One attempt at one secure sum.

        round = ServerRound(task, fleet=enrolled_identities)
        round.add_advertisement(reply) ...             ; share_request = round.close_advertise()
        round.add_shares(identity, reply) ...          ; collect_requests = round.close_share()   # by
        identity
        round.add_masked(identity, reply) ...          ; confirm_request = round.close_collect()
        round.add_confirmation(identity, reply) ...    ; unmask_request = round.close_confirm()
        round.add_unmask(identity, reply) ...          ; total = round.recover_sum()

    `add_*` raises ProtocolError for a reply that is invalid, from an unknown device, or for another stage
    (leave that device out); adding the same reply again changes nothing. `close_*` raises ProtocolError when
    too few answered (abort: nothing was learnt). Nobody need be asked to confirm unless `graph.needs_confirmation`.
    Holds masked vectors only, as one running sum.
    """

    def __init__(self, task: RoundTask, *, fleet: Collection[bytes] | None = None) -> None:
        self.task = task
        self.stage = ServerStage.ADVERTISE
        self._digest = task.digest()
        self._fleet = None if fleet is None else frozenset(fleet)
        self._length = JointLayout(task.update_dimension).dimension
        self._advertisements: dict[bytes, AdvertiseReply] = {}
        self._roster: tuple[RosterKeys, ...] = ()
        self._index: dict[bytes, int] = {}
        self._context = b""
        self._graph: Graph | None = None
        self._shares: dict[int, ShareReply] = {}
        self._total = np.zeros(self._length, dtype=masks.word(task.ring_bits))
        self._masked: dict[int, bytes] = {}  # index -> SHA-256 of the reply, to recognise repeats
        self._survivor_list: ConfirmRequest | None = None
        self._transcript = b""
        self._confirmed: dict[int, bytes] = {}
        self._unmasked: dict[int, UnmaskReply] = {}

    # ----- advertise -----

    def add_advertisement(self, reply: AdvertiseReply) -> None:
        """Signature, task and enrolment are checked here, so the server never forwards what devices would
        refuse."""
        self._expect(ServerStage.ADVERTISE, reply.task_digest)
        check_advertisement(self._digest, reply)
        if self._fleet is not None and reply.identity not in self._fleet:
            raise ProtocolError("an advertisement came from a device that is not enrolled in this fleet")
        if self._advertisements.setdefault(reply.identity, reply) != reply:
            raise ProtocolError("one device advertised two different sets of keys")
        if len(self._advertisements) > self.task.cohort_size:
            del self._advertisements[reply.identity]
            raise ProtocolError(f"more than the {self.task.cohort_size} planned devices advertised")

    def close_advertise(self) -> ShareRequest:
        """The signed roster, the same for every device in it."""
        self._expect(ServerStage.ADVERTISE, self._digest)
        entries = tuple(self._advertisements[identity] for identity in sorted(self._advertisements))
        self._enough(len(entries), "advertised keys")
        self._roster = tuple((entry.identity, entry.masking_public, entry.sharing_public) for entry in entries)
        self._index = {entry.identity: index for index, entry in enumerate(entries)}
        self._context = roster_digest(self.task, self._roster)
        self._graph = graph_of(self.task, self._roster)
        self.stage = ServerStage.SHARE
        return ShareRequest(task_digest=self._digest, roster=entries)

    # ----- share -----

    def add_shares(self, identity: bytes, reply: ShareReply) -> None:
        """Boxes must go to exactly the device's neighbours."""
        self._expect(ServerStage.SHARE, reply.task_digest)
        index = self.index_of(identity)
        if set(reply.boxes) != set(self.graph.neighbours(index)):
            raise ProtocolError("a device sent boxes to others than its neighbours")
        if self._shares.setdefault(index, reply) != reply:
            raise ProtocolError("one device sent two different sets of boxes")

    def close_share(self) -> dict[bytes, CollectRequest]:
        """For each device (by identity) that shared: the boxes its neighbours addressed to it."""
        self._expect(ServerStage.SHARE, self._digest)
        self._enough(len(self._shares), "shared their secrets")
        requests = {}
        for index in sorted(self._shares):
            senders = [peer for peer in self.graph.neighbours(index) if peer in self._shares]
            boxes = {peer: self._shares[peer].boxes[index] for peer in sorted(senders)}
            requests[self._roster[index][0]] = CollectRequest(task_digest=self._digest, boxes=boxes)
        self.stage = ServerStage.COLLECT
        return requests

    # ----- collect -----

    def add_masked(self, identity: bytes, reply: CollectReply) -> None:
        """Adds the masked vector to the running sum mod 2^b; the vector itself is not kept."""
        self._expect(ServerStage.COLLECT, reply.task_digest)
        index = self.index_of(identity)
        if index not in self._shares:
            raise ProtocolError("a masked vector came from a device that has shared no secrets")
        digest = hashlib.sha256(reply.masked).digest()
        if index in self._masked:
            if self._masked[index] != digest:
                raise ProtocolError("one device sent two different masked vectors")
            return
        values = codec.unpack(reply.masked, self._length, self.task.ring_bits)
        self._total += values
        self._masked[index] = digest

    def close_collect(self) -> ConfirmRequest:
        """The list of survivors, the same for each of them."""
        self._expect(ServerStage.COLLECT, self._digest)
        self._enough(len(self._masked), "sent a vector")
        if self.graph.needs_confirmation:
            self._enough(len(self._masked), "can sign the list of survivors", quorum(len(self._roster)))
        self.stage = ServerStage.CONFIRM
        dropped = tuple(sorted(set(self._shares) - set(self._masked)))
        self._survivor_list = ConfirmRequest(
            task_digest=self._digest, survivors=tuple(sorted(self._masked)), dropped=dropped
        )
        self._transcript = survivors_transcript(self.task, self._roster, self._survivor_list)
        return self._survivor_list

    # ----- confirm -----

    def add_confirmation(self, identity: bytes, reply: ConfirmReply) -> None:
        """A survivor's signature over the list."""
        self._expect(ServerStage.CONFIRM, reply.task_digest)
        index = self.index_of(identity)
        if index not in self._masked:
            raise ProtocolError("a confirmation came from a device that is not among the survivors")
        verify_once(identity, self._transcript, reply.signature)
        self._confirmed[index] = reply.signature

    def confirmed(self) -> bool:
        """Whether a quorum has signed the list (it need not wait for the slowest)."""
        return len(self._confirmed) >= quorum(len(self._roster))

    def close_confirm(self) -> UnmaskRequest:
        """Write the privacy spend down before sending this: with the answers the sum is known."""
        self._expect(ServerStage.CONFIRM, self._digest)
        signatures: dict[int, bytes] = {}
        if self.graph.needs_confirmation:
            needed = quorum(len(self._roster))
            self._enough(len(self._confirmed), "signed the list of survivors", needed)
            signatures = dict(sorted(self._confirmed.items())[:needed])
        self.stage = ServerStage.UNMASK
        listed = self._survivor_list
        assert listed is not None  # since close_collect
        return UnmaskRequest(
            task_digest=self._digest, survivors=listed.survivors, dropped=listed.dropped, signatures=signatures
        )

    # ----- unmask -----

    def add_unmask(self, identity: bytes, reply: UnmaskReply) -> None:
        """Shares must concern exactly the neighbours whose boxes this device received, each of the right
        kind."""
        self._expect(ServerStage.UNMASK, reply.task_digest)
        index = self.index_of(identity)
        if index not in self._masked:
            raise ProtocolError("shares came from a device that is not among the survivors")
        peers = set(self.graph.neighbours(index)) & self._shares.keys()
        if set(reply.seed_shares) != peers & self._masked.keys():
            raise ProtocolError("a device revealed other seed shares than those of its surviving neighbours")
        if set(reply.key_shares) != peers - self._masked.keys():
            raise ProtocolError("a device revealed other key shares than those of its dropped neighbours")
        if self._unmasked.setdefault(index, reply) != reply:
            raise ProtocolError("one device revealed two different sets of shares")

    def ready(self) -> bool:
        """Whether `recover_sum` has enough shares for everybody (it need not wait for the slowest)."""
        return self.stage is ServerStage.UNMASK and all(
            len(shares) >= self.graph.threshold for _, shares in self._shares_by_owner()
        )

    def recover_sum(self) -> masks.Residues:
        """Sum of the survivors' integer vectors mod 2^ring_bits, exact, shape (joint dimension,).

        Raises ProtocolError if somebody's secret has too few shares, or if shares do not give the secret that
        its owner committed to (somebody sent wrong shares): then the sum stays masked.
        """
        self._expect(ServerStage.UNMASK, self._digest)
        total, bits = self._total.copy(), self.task.ring_bits
        for index, shares in self._shares_by_owner():
            if len(shares) < self.graph.threshold:
                raise ProtocolError(f"{len(shares)} of {self.graph.threshold} shares for one device")
            secret = shamir.combine({peer + 1: value for peer, value in shares.items()}, self.graph.threshold)
            if index in self._masked:
                if hashlib.sha256(secret).digest() != self._shares[index].seed_commitment:
                    raise ProtocolError("a recovered seed is not the one committed to; a device sent wrong shares")
                total -= masks.expand(self_mask_key(secret, self._context), self._length, bits)
                continue
            masking = AgreementKey.from_private_bytes(secret)
            if masking.public_bytes != self._roster[index][1]:
                raise ProtocolError("a recovered key is not the one advertised; a device sent wrong shares")
            # The dropped device's own masks, added now: they cancel those of its surviving neighbours.
            for peer in self.graph.neighbours(index):
                if peer in self._masked:
                    total = add_pairwise(total, masking, self._roster, index, peer, self._context, bits)
        total &= masks.ring_mask(bits)
        return total

    # ----- what a caller may look at -----

    @property
    def graph(self) -> Graph:
        """The neighbour graph; known once the roster is closed."""
        if self._graph is None:
            raise ProtocolError("the roster is still open; close the advertise stage first")
        return self._graph

    @property
    def survivors(self) -> tuple[bytes, ...]:
        """Identities of the devices whose vectors are in the sum."""
        return tuple(self._roster[index][0] for index in sorted(self._masked))

    def index_of(self, identity: bytes) -> int:
        """Roster index of a device. Raises ProtocolError if it is not in this round."""
        if identity not in self._index:
            raise ProtocolError("this device is not in the roster of the round")
        return self._index[identity]

    def _shares_by_owner(self) -> list[tuple[int, Mapping[int, bytes]]]:
        owners: list[tuple[int, Mapping[int, bytes]]] = []
        for index in sorted(self._shares):
            found = {}
            for peer in self.graph.neighbours(index):
                reply = self._unmasked.get(peer)
                if reply is not None:
                    held = reply.seed_shares if index in self._masked else reply.key_shares
                    if index in held:
                        found[peer] = held[index]
            owners.append((index, found))
        return owners

    def _expect(self, stage: ServerStage, task_digest: str) -> None:
        if task_digest != self._digest:
            raise ProtocolError("a reply belongs to another task")
        if self.stage is not stage:
            raise ProtocolError(f"the round gathers {self.stage.name.lower()} replies, not {stage.name.lower()}")

    def _enough(self, count: int, deed: str, needed: int = 0) -> None:
        needed = needed or self.task.minimum_survivors
        if count < needed:
            raise ProtocolError(f"{count} devices {deed}, {needed} are needed; nothing is learnt")
