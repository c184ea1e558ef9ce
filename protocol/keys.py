"""Key agreement (X25519), key derivation (HKDF-SHA256), sealing (ChaCha20-Poly1305) and signatures (Ed25519).

Every primitive comes from `cryptography`; this file fixes sizes, contexts and errors. All keys are 32 raw
bytes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.errors import ProtocolError

NONCE_BYTES, TAG_BYTES, SIGNATURE_BYTES = 12, 16, 64


@dataclass(frozen=True)
class AgreementKey:
    """An X25519 key pair, used in one round only."""

    _key: X25519PrivateKey

    @staticmethod
    def generate() -> AgreementKey:
        """A fresh key from the operating system's randomness."""
        return AgreementKey(X25519PrivateKey.generate())

    @staticmethod
    def from_private_bytes(private: bytes) -> AgreementKey:
        """The key whose `private_bytes` these are (32 bytes)."""
        if len(private) != 32:
            raise ProtocolError("an agreement key has 32 bytes")
        return AgreementKey(X25519PrivateKey.from_private_bytes(private))

    @property
    def private_bytes(self) -> bytes:
        """32 secret bytes."""
        return self._key.private_bytes_raw()

    @property
    def public_bytes(self) -> bytes:
        """32 bytes for the peers."""
        return self._key.public_key().public_bytes_raw()

    def shared_key(self, peer_public: bytes, context: bytes) -> bytes:
        """32 bytes that only this key and the peer's can compute: HKDF-SHA256(X25519, info = context).

        Different contexts give independent keys. Both ends get the same bytes: the context must not depend on
        the end. Raises ProtocolError for a public key that is malformed or of small order.
        """
        try:
            secret = self._key.exchange(X25519PublicKey.from_public_bytes(peer_public))
        except ValueError:
            raise ProtocolError("a peer's public key is invalid; it cannot take part") from None
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=context).derive(secret)


def seal(key: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """Encrypt and authenticate: nonce (12 random bytes) | ciphertext | tag (16). `key` has 32 bytes."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, plaintext, associated_data)


def unseal(key: bytes, box: bytes, associated_data: bytes) -> bytes:
    """Inverse of `seal`. Raises ProtocolError if the key, the box or the associated data is not the sealed
    one."""
    if len(box) < NONCE_BYTES + TAG_BYTES:
        raise ProtocolError("a sealed box is too short")
    try:
        return ChaCha20Poly1305(key).decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], associated_data)
    except InvalidTag:
        raise ProtocolError("a sealed box does not open: wrong key, wrong round, or changed on the way") from None


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 identity: lives as long as the device's enrolment."""

    _key: Ed25519PrivateKey

    @staticmethod
    def generate() -> SigningKey:
        """A fresh identity from the operating system's randomness."""
        return SigningKey(Ed25519PrivateKey.generate())

    @staticmethod
    def from_private_bytes(private: bytes) -> SigningKey:
        """The identity whose `private_bytes` these are (32 bytes)."""
        if len(private) != 32:
            raise ProtocolError("a signing key has 32 bytes")
        return SigningKey(Ed25519PrivateKey.from_private_bytes(private))

    @property
    def private_bytes(self) -> bytes:
        """32 secret bytes."""
        return self._key.private_bytes_raw()

    @property
    def public_bytes(self) -> bytes:
        """32 bytes: the device's name in the fleet."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return self._key.sign(message)


def verify(public: bytes, message: bytes, signature: bytes) -> None:
    """Raises ProtocolError unless `signature` is the signature of `message` by the identity `public`."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise ProtocolError("a signature is wrong: the message was not written by the device it names") from None


@lru_cache(maxsize=16_384)
def verify_once(public: bytes, message: bytes, signature: bytes) -> None:
    """`verify`, remembered when it holds: an in-process fleet shows every device the same signatures."""
    verify(public, message, signature)
