"""Agreement is symmetric and bound to its context; boxes and signatures fail on any change."""

import pytest

from protocol.errors import ProtocolError
from protocol.keys import AgreementKey, SigningKey, seal, unseal, verify


def test_both_ends_agree_and_contexts_separate():
    one, two = AgreementKey.generate(), AgreementKey.generate()
    key = one.shared_key(two.public_bytes, b"masks")
    assert key == two.shared_key(one.public_bytes, b"masks") and len(key) == 32
    assert key != one.shared_key(two.public_bytes, b"boxes")
    assert key != AgreementKey.generate().shared_key(two.public_bytes, b"masks")
    again = AgreementKey.from_private_bytes(one.private_bytes)
    assert again.public_bytes == one.public_bytes and again.shared_key(two.public_bytes, b"masks") == key


@pytest.mark.parametrize("public", [bytes(32), b"\x01" + bytes(31), b"short"])
def test_invalid_public_keys_are_refused(public):
    with pytest.raises(ProtocolError, match="public key is invalid"):
        AgreementKey.generate().shared_key(public, b"masks")


def test_private_keys_need_32_bytes():
    with pytest.raises(ProtocolError, match="32 bytes"):
        AgreementKey.from_private_bytes(bytes(31))
    with pytest.raises(ProtocolError, match="32 bytes"):
        SigningKey.from_private_bytes(bytes(33))


def test_a_box_opens_only_unchanged_with_its_key_and_label():
    key = bytes(range(32))
    box = seal(key, b"two shares", b"label")
    assert unseal(key, box, b"label") == b"two shares"
    assert seal(key, b"two shares", b"label") != box  # fresh nonce
    for wrong_key, wrong_box, wrong_label in [
        (bytes(32), box, b"label"),
        (key, box, b"lapel"),
        (key, box[:-1] + bytes([box[-1] ^ 1]), b"label"),
        (key, bytes([box[0] ^ 1]) + box[1:], b"label"),
        (key, box[:27], b"label"),
        (key, b"", b"label"),
    ]:
        with pytest.raises(ProtocolError, match="sealed box"):
            unseal(wrong_key, wrong_box, wrong_label)


def test_signatures():
    key = SigningKey.generate()
    signature = key.sign(b"message")
    verify(key.public_bytes, b"message", signature)
    assert SigningKey.from_private_bytes(key.private_bytes).public_bytes == key.public_bytes
    for public, message, wrong in [
        (key.public_bytes, b"massage", signature),
        (SigningKey.generate().public_bytes, b"message", signature),
        (key.public_bytes, b"message", bytes(64)),
        (key.public_bytes, b"message", b""),
        (b"short", b"message", signature),
    ]:
        with pytest.raises(ProtocolError, match="signature is wrong"):
            verify(public, message, wrong)
