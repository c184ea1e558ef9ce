"""Plain CBOR is read; tags, indefinite lengths, repeated keys and deep nesting are refused at once."""

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ProtocolError
from protocol.messages import Refusal
from protocol.plain_cbor import MAXIMUM_DEPTH, read_plain

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=4),
    max_leaves=12,
)


@given(value=PLAIN)
def test_plain_values_come_back(value):
    assert read_plain(cbor2.dumps(value, canonical=True)) == value


@pytest.mark.parametrize(
    "tag", [0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 258, 260, 999, 1004, 43000, 55799, 1 << 40]
)
@pytest.mark.parametrize("inner", [b"\x00", b"\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x03", b"\x80", b"\x42\x01\x02"])
def test_no_tag_is_followed(tag, inner):
    head = b"\xdb" + tag.to_bytes(8, "big")
    for data in (head + inner, b"\xa1\x66reason" + head + inner):
        with pytest.raises((ValueError, cbor2.CBORError)):
            read_plain(data)
        with pytest.raises(ProtocolError):
            Refusal.from_bytes(data)


DEEP = b"\x81" * (MAXIMUM_DEPTH + 2) + b"\x00"


@pytest.mark.parametrize("data", [b"\x9f\x00\xff", b"\xbf\xff", b"\x7f\x61a\xff", b"\xa2\x00\x00\x00\x01", DEEP, b""])
def test_odd_shapes_are_refused(data):
    with pytest.raises((ValueError, EOFError, cbor2.CBORError)):
        read_plain(data)
