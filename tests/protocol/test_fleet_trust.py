"""Documents are read only when the right key signed them, as what they are, for this fleet, in time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import ProtocolError
from protocol.fleet_trust import (
    FleetAuthority,
    ReleaseStatement,
    RosterDocument,
    ServerCertificate,
    certified_server_key,
    open_document,
    sign_document,
)
from protocol.keys import SigningKey
from protocol.messages import RoundTask
from tests.protocol.secure_sum_fleet import make_task

KEY = SigningKey.generate()
AUTHORITY = FleetAuthority("fleet", KEY)
MEMBERS = [bytes([number]) * 32 for number in range(5)]
STATEMENT = ReleaseStatement(
    fleet_id="fleet",
    name="shared",
    sha256="a" * 64,
    run_id="r",
    round=2,
    epsilon=None,
    delta=1e-5,
    base_sha256="b" * 64,
)
SIGNED = {
    RosterDocument: AUTHORITY.enrol(reversed(MEMBERS), serial=3),
    ServerCertificate: AUTHORITY.certify(b"s" * 32, not_after=100),
    ReleaseStatement: sign_document(STATEMENT, KEY),
    RoundTask: sign_document(make_task(5, fleet_id="fleet"), KEY),
}


@pytest.mark.parametrize("kind", SIGNED, ids=lambda kind: kind.__name__)
def test_a_document_opens_as_itself_and_as_nothing_else(kind):
    assert open_document(kind, SIGNED[kind], KEY.public_bytes, "fleet").fleet_id == "fleet"
    for other in SIGNED:
        if other is not kind:
            with pytest.raises(ProtocolError, match="not signed for this fleet"):
                open_document(other, SIGNED[kind], KEY.public_bytes, "fleet")
    with pytest.raises(ProtocolError, match="not signed for this fleet"):
        open_document(kind, SIGNED[kind], SigningKey.generate().public_bytes, "fleet")
    with pytest.raises(ProtocolError, match="another fleet"):
        open_document(kind, SIGNED[kind], KEY.public_bytes, "other")


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(list(SIGNED)), position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_is_refused_before_parsing(kind, position, bit):
    data = bytearray(SIGNED[kind])
    data[position % len(data)] ^= 1 << bit
    with pytest.raises(ProtocolError, match="nothing in it was read"):
        open_document(kind, bytes(data), KEY.public_bytes, "fleet")


@pytest.mark.parametrize("data", [b"", bytes(64), bytes(65), bytes(5 << 20)], ids=len)
def test_missing_signatures_and_oversized_documents_are_refused(data):
    for kind in SIGNED:
        with pytest.raises(ProtocolError, match="nothing in it was read"):
            open_document(kind, data, KEY.public_bytes, "fleet")


def test_members_are_listed_once_in_order():
    roster = open_document(RosterDocument, SIGNED[RosterDocument], KEY.public_bytes, "fleet")
    assert roster.members == tuple(MEMBERS) and roster.serial == 3
    for members in (MEMBERS[::-1], [MEMBERS[0], MEMBERS[0]]):
        document = RosterDocument.model_construct(fleet_id="fleet", serial=1, members=tuple(members))
        with pytest.raises(ProtocolError, match="invalid field"):
            open_document(RosterDocument, sign_document(document, KEY), KEY.public_bytes, "fleet")


def test_a_certificate_holds_until_its_time():
    invitation = AUTHORITY.invitation
    assert certified_server_key(invitation, SIGNED[ServerCertificate], now=100.0) == b"s" * 32
    with pytest.raises(ProtocolError, match="expired"):
        certified_server_key(invitation, SIGNED[ServerCertificate], now=100.5)
    assert certified_server_key(invitation, AUTHORITY.certify(b"t" * 32), now=1e12) == b"t" * 32


def test_keys_are_not_shown():
    assert KEY.private_bytes.hex() not in repr(AUTHORITY)
