"""Everything that crosses the wire in a round: strict, bounded, with exactly one encoding per message.

A round has four questions after an optional setup, each answered by every device still there:

    Setup     which artefacts do you hold?             (may carry the missing ones, keyed by SHA-256)
    Advertise here is the task; your keys, please      -> two X25519 keys, signed with the device's Ed25519
    identity
    Share     here are everybody's signed keys         -> one sealed box of Shamir shares per neighbour
    Collect   here are the boxes addressed to you      -> the masked, noisy, integer vector
    Unmask    these survived, those dropped            -> for each neighbour ONE share: of its seed, or of its
    mask key

Devices are named by their *index* in the roster: the position of their identity key among all identity keys
of the round in ascending byte order. Messages travel as canonical CBOR; `from_bytes` refuses any other
encoding of the same content, so equal messages are equal bytes and a digest names a message.
"""

import hashlib
import io
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self

import cbor2
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from protocol.errors import ProtocolError

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
            stream = io.BytesIO(data)
            fields = cbor2.CBORDecoder(stream).decode()
            if not isinstance(fields, dict) or cbor2.dumps(fields, canonical=True) != data:
                raise ProtocolError(f"{cls.__name__}: not a canonical CBOR map; the sender runs another version")
            return cls.model_validate(fields)
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

    `dimension` is the length of one coordinate theta, `basis_count` the number K of bases; the update has
    `update_dimension` values. `clip_norm` bounds the update's L2 norm, `noise_multiplier` is z (0 = no noise,
    and every report says so), `minimum_survivors` the smallest cohort for which the noise suffices: fewer,
    and no device unmasks. `scale` is integers per unit, `graph_degree`/`graph_threshold` the plan for
    `cohort_size` devices.
    """

    run_id: Name
    round: Annotated[int, Field(ge=0, lt=1 << 31)]
    attempt: Annotated[int, Field(ge=0, lt=1 << 16)] = 0
    kind: Literal["shared", "bases"]
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
        if self.update_dimension > MAXIMUM_DIMENSION:
            raise ValueError("dimension * basis_count is too large")
        return self

    @property
    def update_dimension(self) -> int:
        """Length of the update: d for a shared adapter, K * d for the sketch of the bases."""
        return self.dimension * (self.basis_count if self.kind == "bases" else 1)

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical encoding; every later message and every signature names it."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


class SetupRequest(Message):
    """Artefacts the device may lack, by SHA-256 (the device checks each digest before keeping one)."""

    maximum_bytes: ClassVar[int] = 64 * MIB
    artefacts: Annotated[dict[Digest, bytes], Field(max_length=64)] = Field(default_factory=dict)


class SetupReply(Message):
    """The device's Ed25519 identity and the digests of the artefacts it holds."""

    identity: Key32
    artefacts: Annotated[tuple[Digest, ...], Field(max_length=4096, strict=False)] = ()
    maximum_bytes: ClassVar[int] = 512 * KIB


class AdvertiseRequest(Message):
    """Opens a round on a device."""

    task: RoundTask


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


class UnmaskRequest(Message):
    """Who sent a masked vector (`survivors`) and who sent boxes but no vector (`dropped`), ascending
    indices."""

    maximum_bytes: ClassVar[int] = 1 * MIB
    task_digest: Digest
    survivors: Indices
    dropped: Indices = ()


class UnmaskReply(Message):
    """Shares by neighbour index: of the mask seed of survivors, of the masking key of the dropped, never
    both."""

    maximum_bytes: ClassVar[int] = 1 * MIB
    task_digest: Digest
    seed_shares: Annotated[dict[Index, Share33], Field(max_length=8192)]
    key_shares: Annotated[dict[Index, Share33], Field(max_length=8192)]


class RefusalReason(StrEnum):
    """Why a device does not take part; the server counts reasons, it needs no more."""

    BUDGET = "budget"
    CONSENT = "consent"
    ROSTER = "roster"
    STAGE = "stage"
    ARTEFACT = "artefact"
    BASE = "base"
    MALFORMED = "malformed"
    INTERNAL = "internal"


class Refusal(Message):
    """Sent instead of a reply. `text` is one of the project's own error lines, never a person's words."""

    reason: Annotated[RefusalReason, Field(strict=False)]
    text: Annotated[str, Field(max_length=400)]
    maximum_bytes: ClassVar[int] = 4 * KIB
