"""Only well-formed, bounded, canonical messages are read; everything else is one clear error."""

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import ProtocolError
from protocol.messages import (
    AdvertiseReply,
    AdvertiseRequest,
    CollectReply,
    CollectRequest,
    ConfirmReply,
    ConfirmRequest,
    Refusal,
    RefusalReason,
    RoundTask,
    SetupReply,
    SetupRequest,
    ShareReply,
    ShareRequest,
    SignedRelease,
    UnmaskReply,
    UnmaskRequest,
)
from tests.protocol.secure_sum_fleet import make_task

DIGEST = "d" * 64
ADVERT = AdvertiseReply(
    task_digest=DIGEST,
    identity=b"i" * 32,
    masking_public=b"m" * 32,
    sharing_public=b"s" * 32,
    signature=b"g" * 64,
)
MESSAGES = [
    make_task(26, settings={"learning_rate": 0.5, "steps": 3, "loss": "dpo"}),
    SetupRequest(
        certificate=b"c" * 70,
        challenge=b"n" * 32,
        roster=b"r" * 99,
        releases=(SignedRelease(statement=b"s" * 70, data=b"frame"),),
    ),
    SetupReply(identity=b"i" * 32, signature=b"g" * 64, roster_serial=3, artefacts=(DIGEST,)),
    AdvertiseRequest(certificate=b"c" * 70, task=b"t" * 99),
    ADVERT,
    ShareRequest(task_digest=DIGEST, roster=(ADVERT, ADVERT)),
    ShareReply(task_digest=DIGEST, seed_commitment=b"c" * 32, boxes={3: b"b" * 94, 1: b"a" * 94}),
    CollectRequest(task_digest=DIGEST, boxes={1: b"b" * 94}),
    CollectReply(task_digest=DIGEST, masked=b"\0\1"),
    ConfirmRequest(task_digest=DIGEST, survivors=(0, 2), dropped=(1,)),
    ConfirmReply(task_digest=DIGEST, signature=b"g" * 64),
    UnmaskRequest(task_digest=DIGEST, survivors=(0, 2), dropped=(1,), signatures={2: b"g" * 64}),
    UnmaskReply(task_digest=DIGEST, seed_shares={0: b"s" * 33}, key_shares={}),
    Refusal(reason=RefusalReason.BUDGET),
]
every_message = pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)


@every_message
def test_round_trip_and_one_encoding(message):
    data = message.to_bytes()
    again = type(message).from_bytes(data)
    assert again == message and again.to_bytes() == data


@every_message
def test_malformed_bytes_are_refused(message):
    kind, data = type(message), message.to_bytes()
    fields = cbor2.loads(data)
    required = [field for field, info in kind.model_fields.items() if info.is_required()]
    name = required[0]
    damaged = [
        b"", b"\xff", b"\x80", b"\x01", data[:-1], data + b"\0", b"\x9f" * 5000, b"\xa1" * 3000,
        b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff", b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",
        cbor2.dumps({**fields, "extra": 1}, canonical=True),
        cbor2.dumps({key: value for key, value in fields.items() if key != name}, canonical=True),
        cbor2.dumps({**fields, name: None}, canonical=True),
        cbor2.dumps({**fields, name: 1.5}, canonical=True),
        cbor2.dumps(list(fields.values()), canonical=True),
    ]  # fmt: skip
    for wrong in damaged:
        with pytest.raises(ProtocolError):
            kind.from_bytes(wrong)


@every_message
def test_oversized_bytes_are_refused_before_parsing(message):
    with pytest.raises(ProtocolError, match="at most"):
        type(message).from_bytes(bytes(type(message).maximum_bytes + 1))


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200), which=st.integers(0, len(MESSAGES) - 1))
def test_random_bytes_never_crash(data, which):
    with pytest.raises(ProtocolError):
        type(MESSAGES[which]).from_bytes(b"\x01" + data)


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, 10_000), byte=st.integers(0, 255), which=st.integers(0, len(MESSAGES) - 1))
def test_a_changed_byte_is_refused_or_means_what_it_says(position, byte, which):
    message = MESSAGES[which]
    data = bytearray(message.to_bytes())
    data[position % len(data)] = byte
    try:
        again = type(message).from_bytes(bytes(data))
    except ProtocolError:
        return
    assert again.to_bytes() == bytes(data)


def test_non_canonical_encodings_are_refused():
    fields = MESSAGES[4].model_dump()
    backwards = dict(reversed(list(fields.items())))
    with pytest.raises(ProtocolError, match="canonical"):
        AdvertiseReply.from_bytes(cbor2.dumps(backwards))
    twice = b"\xa2" + MESSAGES[-1].to_bytes()[1:] + cbor2.dumps("reason") + cbor2.dumps("stage")
    with pytest.raises(ProtocolError, match="not CBOR"):
        Refusal.from_bytes(twice)


def test_a_field_left_out_for_its_default_is_a_second_encoding_and_refused():
    fields = {name: value for name, value in make_task(26).model_dump().items() if name != "attempt"}
    with pytest.raises(ProtocolError, match="canonical"):
        RoundTask.from_bytes(cbor2.dumps(fields, canonical=True))


def test_errors_never_repeat_the_content():
    data = cbor2.dumps({"reason": "SECRET" * 100}, canonical=True)
    with pytest.raises(ProtocolError) as error:
        Refusal.from_bytes(data)
    assert "SECRET" not in str(error.value) and "reason" in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize(
    "changes",
    [
        {"run_id": ""}, {"run_id": "a b"}, {"round": -1}, {"kind": "other"}, {"base_sha256": "B" * 64},
        {"base_sha256": "b" * 63}, {"artefacts": {"frame": "x"}}, {"dimension": 0}, {"dimension": 1 << 25},
        {"dimension": 2.0}, {"dimension": True}, {"clip_norm": 0.0}, {"clip_norm": float("nan")},
        {"clip_norm": float("inf")}, {"noise_multiplier": -0.1}, {"minimum_survivors": 1},
        {"minimum_survivors": 27}, {"cohort_size": 2}, {"scale": 0.0}, {"ring_bits": 33}, {"ring_bits": 7},
        {"graph_threshold": 1}, {"graph_threshold": 26}, {"graph_degree": 26}, {"delta": 0.0}, {"delta": 1.0},
        {"graph_degree": 25, "graph_threshold": 6}, {"settings": {"x": [1]}},
        {"settings": {"x": float("nan")}},
        {"settings": {"x": True}}, {"rotation_seed": -1},
        {"kind": "bases", "basis_count": 4096, "dimension": 8192},
    ],
)  # fmt: skip
def test_impossible_tasks_are_refused(changes):
    fields = {**make_task(26).model_dump(), **changes}
    with pytest.raises(ProtocolError):
        RoundTask.from_bytes(cbor2.dumps(fields, canonical=True))


def test_task_digest_covers_every_field_and_update_dimension_counts_bases():
    task = make_task(26)
    assert task.digest() == RoundTask.from_bytes(task.to_bytes()).digest()
    for changes in [
        {"fleet_id": "one"},
        {"roster_serial": 1},
        {"run_id": "run-2"},
        {"base_sha256": "c" * 64},
        {"artefacts": {"frame": "c" * 64}},
        {"round": 1},
        {"attempt": 1},
        {"clip_norm": 1.5},
        {"settings": {"steps": 1}},
        {"delta": 1e-6},
    ]:
        assert make_task(26, **changes).digest() != task.digest()
    assert task.update_dimension == 13
    assert make_task(26, kind="bases", basis_count=4).update_dimension == 52


def test_an_oversized_message_is_not_sent():
    with pytest.raises(ProtocolError, match="at most"):
        AdvertiseRequest.model_construct(certificate=b"c" * 70, task=bytes(70_000)).to_bytes()
