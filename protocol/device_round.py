"""What a device must remember between the messages of a round: its secrets and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, ClassVar

from pydantic import Field

from protocol.errors import ProtocolError
from protocol.graph import Graph
from protocol.messages import MIB, Index, Key32, Message, RoundTask, SealedBox
from protocol.roster import RosterKeys, graph_of

_ENTRY_BYTES = 96  # three keys of 32 bytes


class Stage(IntEnum):
    """The last step a device has taken in a round."""

    ADVERTISED = 1
    SHARED = 2
    MASKED = 3
    CONFIRMED = 4
    UNMASKED = 5


@dataclass(frozen=True, repr=False)  # no secrets in logs
class DeviceRound:
    """A device's secrets and progress in one round. `to_bytes()` belongs in encrypted storage, until the end.

    `roster` is the accepted roster, `box_keys` the keys of the boxes to and from each neighbour, `boxes` what
    each neighbour (by index) sent, `survivor_list` the one list of survivors this device has signed or answered.
    """

    task: RoundTask
    stage: Stage
    identity: bytes
    masking_private: bytes
    sharing_private: bytes
    mask_seed: bytes
    roster: tuple[RosterKeys, ...] = ()
    box_keys: tuple[tuple[int, bytes], ...] = ()
    boxes: tuple[tuple[int, bytes], ...] = ()
    survivor_list: bytes = b""

    @property
    def index(self) -> int:
        """This device's position in the accepted roster."""
        for position, (identity, _, _) in enumerate(self.roster):
            if identity == self.identity:
                return position
        raise ProtocolError("this device has not accepted a roster yet; answer the share request first")

    @property
    def graph(self) -> Graph:
        """Who shares secrets with whom, from public values alone."""
        return graph_of(self.task, self.roster)

    def to_bytes(self) -> bytes:
        """Everything needed to go on in another process. Holds secret keys."""
        saved = SavedRound(
            task=self.task.to_bytes(),
            stage=int(self.stage),
            identity=self.identity,
            masking_private=self.masking_private,
            sharing_private=self.sharing_private,
            mask_seed=self.mask_seed,
            roster=b"".join(key for entry in self.roster for key in entry),
            box_keys=dict(self.box_keys),
            boxes=dict(self.boxes),
            survivor_list=self.survivor_list,
        )
        return saved.to_bytes()

    @staticmethod
    def from_bytes(data: bytes) -> DeviceRound:
        """The state that `to_bytes` wrote. Raises ProtocolError if it is damaged."""
        saved = SavedRound.from_bytes(data)
        if len(saved.roster) % _ENTRY_BYTES:
            raise ProtocolError("the saved state of this round is damaged; skip the round")
        starts = range(0, len(saved.roster), _ENTRY_BYTES)
        return DeviceRound(
            task=RoundTask.from_bytes(saved.task),
            stage=Stage(saved.stage),
            identity=saved.identity,
            masking_private=saved.masking_private,
            sharing_private=saved.sharing_private,
            mask_seed=saved.mask_seed,
            roster=tuple(
                (saved.roster[at : at + 32], saved.roster[at + 32 : at + 64], saved.roster[at + 64 : at + 96])
                for at in starts
            ),
            box_keys=tuple(saved.box_keys.items()),
            boxes=tuple(saved.boxes.items()),
            survivor_list=saved.survivor_list,
        )


class SavedRound(Message):
    """A `DeviceRound` on disk; never sent. `roster`: 96 bytes per device."""

    maximum_bytes: ClassVar[int] = 16 * MIB
    task: Annotated[bytes, Field(max_length=60 << 10)]
    stage: Annotated[int, Field(ge=min(Stage), le=max(Stage))]
    identity: Key32
    masking_private: Key32
    sharing_private: Key32
    mask_seed: Key32
    roster: bytes
    box_keys: dict[Index, Key32]
    boxes: dict[Index, SealedBox]
    survivor_list: Annotated[bytes, Field(max_length=32)]
