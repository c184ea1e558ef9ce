"""What a fleet publishes about taste, as one file: the bank in reward space and the feature map that it is made for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cbor2

from protocol.bank import Bank
from protocol.errors import ProtocolError
from protocol.feature_map import FeatureMap
from protocol.plain_cbor import read_plain

_FORMAT: Final = "penchant-taste-1"


@dataclass(frozen=True)
class TasteRelease:
    """What a fleet publishes about taste: a bank in reward space and the feature map that it is made for."""

    bank: Bank
    feature_map: FeatureMap

    def __post_init__(self) -> None:
        if self.bank.space != "reward" or self.bank.space_sha256 != self.feature_map.digest:
            raise ProtocolError("This bank belongs to another feature map: fetch both from one release.")

    def to_bytes(self) -> bytes:
        """The file that `penchant taste install` reads."""
        parts = {"format": _FORMAT, "feature_map": self.feature_map.to_bytes(), "bank": self.bank.to_bytes()}
        return cbor2.dumps(parts, canonical=True)

    @staticmethod
    def from_bytes(data: bytes) -> TasteRelease:
        """ProtocolError if `data` is nothing of the kind."""
        try:
            parts = read_plain(data)
            if parts["format"] != _FORMAT:
                raise ValueError("another format")
            feature_map = FeatureMap.from_bytes(parts["feature_map"])
            bank_bytes = parts["bank"]
        except ProtocolError:
            raise
        except Exception:
            raise ProtocolError("This is not a taste release: fetch the file from the fleet again.") from None
        bank = Bank.from_bytes(bank_bytes, space_sha256=feature_map.digest, dimension=feature_map.dimension)
        return TasteRelease(bank, feature_map)
