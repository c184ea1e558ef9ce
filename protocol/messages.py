"""Everything that crosses the wire in a round: strict, bounded, with exactly one encoding per message.

A round has five questions after an optional setup, each answered by every device still there:

    Setup     which artefacts do you hold?             (may carry the missing ones, each with its signed statement)
    Advertise here is the signed task; your keys?      -> two X25519 keys, signed with the device's Ed25519 identity
    Share     here are everybody's signed keys         -> one sealed box of Shamir shares per neighbour
    Collect   here are the boxes addressed to you      -> the masked, noisy, integer vector
    Confirm   these survived, those dropped            -> a signature over exactly that (see `survivor_list`)
    Unmask    the same, and who signed it              -> for each neighbour ONE share: of its seed, or of its mask key

Devices are named by their *index* in the roster: the position of their identity key among all identity keys
of the round in ascending byte order. Messages travel as canonical CBOR; `from_bytes` refuses any other
encoding of the same content, so equal messages are equal bytes and a digest names a message.
"""

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

import cbor2
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from protocol.distributed_noise import Mechanism
from protocol.errors import ProtocolError
from protocol.plain_cbor import read_plain

MAXIMUM_COHORT = 65_536
MAXIMUM_DIMENSION = 1 << 24
KIB, MIB = 1 << 10, 1 << 20

Key32 = Annotated[bytes, Field(min_length=32, max_length=32)]
Signature64 = Annotated[bytes, Field(min_length=64, max_length=64)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$")]
Index = Annotated[int, Field(ge=0, lt=MAXIMUM_COHORT)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Indices = Annotated[tuple[Index, ...], Field(max_length=MAXIMUM_COHORT, strict=False)]
SignedDocument = Annotated[bytes, Field(min_length=65, max_length=4 * KIB)]  # signature 64, then the document
SealedBox = Annotated[bytes, Field(min_length=94, max_length=94)]  # nonce 12 + two shares of 33 + tag 16
Share33 = Annotated[bytes, Field(min_length=33, max_length=33)]


class Message(BaseModel):
    """Base of all messages: frozen, strict (no coercion), no unknown fields, a size limit per class
    (bytes)."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    maximum_bytes: ClassVar[int] = 64 * KIB

    def to_bytes(self) -> bytes:
        """Canonical CBOR of this message. Raises ProtocolError if it is larger than its class allows."""
        data = cbor2.dumps(self.model_dump(mode="python"), canonical=True)
        if len(data) > self.maximum_bytes:
            raise ProtocolError(_too_large(type(self).__name__, len(data), self.maximum_bytes))
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse untrusted bytes. Raises ProtocolError on anything malformed, oversized or not canonical."""
        if len(data) > cls.maximum_bytes:
            raise ProtocolError(_too_large(cls.__name__, len(data), cls.maximum_bytes))
        try:
            message = cls.model_validate(read_plain(data))
            if message.to_bytes() != data:  # also: a field left out because its default would do
                raise ProtocolError(f"{cls.__name__}: not the canonical encoding; the sender runs another version")
            return message
        except ProtocolError:
            raise
        except ValidationError as error:
            # Only the places are named: the values are somebody's message.
            places = sorted({".".join(str(part) for part in item["loc"][:2]) for item in error.errors()})[:4]
            raise ProtocolError(f"{cls.__name__}: invalid field(s) {', '.join(places) or 'together'}") from None
        except (ValueError, TypeError, EOFError, OverflowError, MemoryError, RecursionError, cbor2.CBORError):
            raise ProtocolError(f"{cls.__name__}: the bytes are not CBOR; the message was damaged") from None


def _too_large(name: str, size: int, limit: int) -> str:
    return f"{name}: {size} bytes, at most {limit} are allowed"


class RoundTask(Message):
    """All public parameters of one attempt at one round; both sides derive the mechanism from it alone.

    `fleet_id` and the `roster_serial` of the members' list that the round is for: a device takes part only if both
    are those it has pinned, so a task without a fleet ("", a benchmark of the sum alone) reaches no device.
    `dimension` is the length of one coordinate theta, `basis_count` the number K of bases; the update has
    `update_dimension` values. `space`: whether they are about adapters (theta in a frame) or about rewards (a vector
    of `reward_rounds`, whose length is the `dimension`). `clip_norm` bounds the update's L2 norm, `noise_multiplier`
    is z (0 = no noise, and every report says so), `minimum_survivors` the smallest cohort for which the noise
    suffices: fewer, and no device unmasks. `scale` is integers per unit, `graph_degree`/`graph_threshold` the plan for
    `cohort_size` devices. `mechanism` names the noise; a person's participations start at least `spacing` rounds apart
    and upload `strategy` times one vector in consecutive rounds (`matrix_factorisation`; (1.0,): once).
    """

    fleet_id: Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9._:-]*$")] = ""
    roster_serial: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    run_id: Name
    round: Annotated[int, Field(ge=0, lt=1 << 31)]
    attempt: Annotated[int, Field(ge=0, lt=1 << 16)] = 0
    kind: Literal["shared", "bases"]
    space: Literal["adapter", "reward"] = "adapter"
    artefacts: Annotated[dict[Name, Digest], Field(max_length=16)]
    base_sha256: Digest
    dimension: Annotated[int, Field(ge=1, le=MAXIMUM_DIMENSION)]
    basis_count: Annotated[int, Field(ge=1, le=4096)] = 1
    clip_norm: Annotated[Finite, Field(gt=0.0)]
    noise_multiplier: Annotated[Finite, Field(ge=0.0, le=1e6)]
    minimum_survivors: Annotated[int, Field(ge=2, le=MAXIMUM_COHORT)]
    cohort_size: Annotated[int, Field(ge=3, le=MAXIMUM_COHORT)]
    scale: Annotated[Finite, Field(gt=0.0)]
    ring_bits: Annotated[int, Field(ge=8, le=32)] = 16
    rotation_seed: Annotated[int, Field(ge=0, lt=1 << 63)]
    graph_seed: Annotated[int, Field(ge=0, lt=1 << 63)]
    graph_degree: Annotated[int, Field(ge=2, lt=MAXIMUM_COHORT)]
    graph_threshold: Annotated[int, Field(ge=2, lt=MAXIMUM_COHORT)]
    delta: Annotated[Finite, Field(gt=0.0, lt=1.0)]
    mechanism: Mechanism = "skellam"
    spacing: Annotated[int, Field(ge=1, lt=1 << 31)] = 1
    strategy: Annotated[tuple[Finite, ...], Field(max_length=64, strict=False)] = (1.0,)
    settings: Annotated[dict[Name, int | Finite | Annotated[str, Field(max_length=4096)]], Field(max_length=64)] = (
        Field(default_factory=dict)
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.minimum_survivors > self.cohort_size:
            raise ValueError("minimum_survivors exceeds cohort_size")
        if not self.graph_threshold <= self.graph_degree < self.cohort_size:
            raise ValueError("need graph_threshold <= graph_degree < cohort_size")
        if 4 * self.graph_threshold < self.graph_degree:
            # A quarter of the neighbours is the fewest that a device lets decide over its secrets.
            raise ValueError("graph_threshold is below a quarter of graph_degree")
        if not self.strategy or self.strategy[0] != 1.0 or not all(0.0 < c <= 1.0 for c in self.strategy):
            raise ValueError("strategy is coefficients in (0, 1], the first of them 1")
        if len(self.strategy) > self.spacing:
            raise ValueError("participations would overlap: spacing is below the strategy's bands")
        if self.update_dimension > MAXIMUM_DIMENSION:
            raise ValueError("dimension * basis_count is too large")
        return self

    @property
    def update_dimension(self) -> int:
        """Length of the update: d for a shared adapter, K * d for the sketch of the bases."""
        return self.dimension * (self.basis_count if self.kind == "bases" else 1)

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical encoding; every later message and every signature names it."""
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields changed; its digest is its own."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("_sha256", None)
        return copied


class SignedRelease(BaseModel):
    """An artefact and the signed `fleet_trust.ReleaseStatement` without which no device looks at it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    statement: SignedDocument
    data: bytes


class SetupRequest(Message):
    """Who asks (`certificate`: the server's, signed by the fleet's authority), the members' list if the device's is
    older, and artefacts that the device may lack. `challenge`: 32 random bytes of this run, to be signed."""

    maximum_bytes: ClassVar[int] = 64 * MIB
    certificate: SignedDocument
    challenge: Key32
    roster: Annotated[bytes, Field(max_length=4 * MIB)] = b""
    releases: Annotated[tuple[SignedRelease, ...], Field(max_length=64, strict=False)] = ()


class SetupReply(Message):
    """The device's Ed25519 identity, the serial of its members' list and the digests of the artefacts it holds.
    `signature` covers `setup_transcript`: no node stands for an identity whose key it does not have."""

    identity: Key32
    signature: Signature64
    roster_serial: Annotated[int, Field(ge=0, lt=1 << 63)]
    artefacts: Annotated[tuple[Digest, ...], Field(max_length=4096, strict=False)] = ()
    maximum_bytes: ClassVar[int] = 512 * KIB


def setup_transcript(challenge: bytes, identity: bytes) -> bytes:
    """The bytes that a device signs to be reached under its identity."""
    return b"penchant/setup/1" + challenge + identity


class AdvertiseRequest(Message):
    """Opens a round on a device: the server's certificate, and a `RoundTask` signed with the key it names."""

    certificate: SignedDocument
    task: Annotated[bytes, Field(min_length=65, max_length=60 * KIB)]


class AdvertiseReply(Message):
    """One device's keys for one round. `signature` covers `secure_sum.advertisement_transcript`."""

    task_digest: Digest
    identity: Key32
    masking_public: Key32
    sharing_public: Key32
    signature: Signature64


class ShareRequest(Message):
    """Everybody's signed keys, in ascending order of identity."""

    maximum_bytes: ClassVar[int] = 32 * MIB
    task_digest: Digest
    roster: Annotated[tuple[AdvertiseReply, ...], Field(max_length=MAXIMUM_COHORT, strict=False)]


class ShareReply(Message):
    """`boxes[index]` is for the neighbour with that index. `seed_commitment` = SHA-256 of the device's own
    mask seed."""

    maximum_bytes: ClassVar[int] = 1 * MIB
    task_digest: Digest
    seed_commitment: Key32
    boxes: Annotated[dict[Index, SealedBox], Field(max_length=8192)]


class CollectRequest(Message):
    """`boxes[index]` came from the neighbour with that index: those neighbours are in, the others have
    dropped."""

    maximum_bytes: ClassVar[int] = 1 * MIB
    task_digest: Digest
    boxes: Annotated[dict[Index, SealedBox], Field(max_length=8192)]


class CollectReply(Message):
    """The masked vector, packed `ring_bits` per value (`codec.pack`)."""

    maximum_bytes: ClassVar[int] = 64 * MIB + KIB
    task_digest: Digest
    masked: bytes


class SurvivorList(Message):
    """Who sent a masked vector (`survivors`) and who sent boxes but no vector (`dropped`), ascending
    indices."""

    task_digest: Digest
    survivors: Indices
    dropped: Indices = ()


class ConfirmRequest(SurvivorList):
    """Asks for a signature over the list; a device signs one list in a round."""

    maximum_bytes: ClassVar[int] = 1 * MIB


class ConfirmReply(Message):
    """`signature` covers `survivor_list.survivors_transcript`."""

    task_digest: Digest
    signature: Signature64


class UnmaskRequest(SurvivorList):
    """The list with the signatures of its quorum by roster index (none where the graph needs none)."""

    maximum_bytes: ClassVar[int] = 8 * MIB
    signatures: Annotated[dict[Index, Signature64], Field(max_length=MAXIMUM_COHORT)] = Field(default_factory=dict)


class UnmaskReply(Message):
    """Shares by neighbour index: of the mask seed of survivors, of the masking key of the dropped, never
    both."""

    maximum_bytes: ClassVar[int] = 1 * MIB
    task_digest: Digest
    seed_shares: Annotated[dict[Index, Share33], Field(max_length=8192)]
    key_shares: Annotated[dict[Index, Share33], Field(max_length=8192)]


class RefusalReason(StrEnum):
    """Why a device does not take part; the server counts reasons, it needs no more."""

    TRUST = "trust"
    BUDGET = "budget"
    CONSENT = "consent"
    ROSTER = "roster"
    STAGE = "stage"
    ARTEFACT = "artefact"
    BASE = "base"
    MALFORMED = "malformed"
    INTERNAL = "internal"


class Refusal(Message):
    """Sent instead of a reply: a reason and nothing else. Why exactly (the owner's budget, their smallest round, what
    lies on the device) stands in the device's own log."""

    reason: Annotated[RefusalReason, Field(strict=False)]
    maximum_bytes: ClassVar[int] = 4 * KIB
