"""A coverage-guided fuzzer (atheris, libFuzzer) over every parser of bytes that others wrote.

    python -m tests.fuzz.fuzz_messages FOLDER --seconds 60

Only `PenchantError` may come out of a parser, and what a message's parser accepts must be the message's own encoding;
anything else is a finding, which libFuzzer prints with its input. The corpus is what the program itself writes. The
first byte of an input chooses the parser, so one process and one corpus serve all of them. Half of the mutations change
a value inside the CBOR and encode it again, to get past the check for canonical bytes; the rest are libFuzzer's own.
FOLDER gets `corpus` and `runs`, how often each parser ran. `--planted` swaps in a careless parser, to show that the
fuzzer notices one.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris
import cbor2

with atheris.instrument_imports(include=["protocol", "edge_runtime", "server.aggregate"]):
    import numpy as np

    from edge_runtime.adapters.adapter_file import AdapterMetadata, read_adapter, read_adapter_metadata, write_adapter
    from edge_runtime.models.gguf_bytes import read_header
    from protocol import codec, fleet_trust, messages, secure_sum
    from protocol.coordinates import Coordinates
    from protocol.errors import PenchantError
    from protocol.fleet_trust import FleetAuthority, ReleaseStatement, open_document, sign_document
    from protocol.frames import Frame
    from protocol.keys import SigningKey
    from protocol.plain_cbor import read_plain
    from protocol.round_plan import RoundPlan
    from server.aggregate import RoundOutcome, decode_sum

from tests.protocol.secure_sum_fleet import SmallFleet, make_task, random_vectors

Parser = Callable[[bytes], object]
MAXIMUM_INPUT = 4096
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1 << 31,
    1 << 64,
    -(1 << 70),
    0.5,
    float("nan"),
    float("inf"),
    "",
    b"",
    [],
    {},
)


def frame() -> Frame:
    """A small frame of one module."""
    left = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 2)))[0]
    return Frame("0" * 64, 2, 1.0, ("blk.0.attn_v",), (left.astype("f4"),), (np.eye(2, 5, dtype="f4"),))


def targets() -> dict[str, tuple[Parser, list[bytes]]]:
    """{name: (parser, what the program itself would give it)}."""
    key = SigningKey.generate()
    authority = FleetAuthority("fleet", key)
    fleet = SmallFleet(make_task(5, fleet_id="fleet", settings={"rate": 0.5, "loss": "dpo"}))
    task = fleet.task
    share_request = fleet.advertise()
    collect_requests = fleet.share(share_request)
    saved = [fleet.states[0].to_bytes()]
    confirm_request = fleet.collect(collect_requests, random_vectors(fleet, np.random.default_rng(0)), gone=[4])
    unmask_request = fleet.confirm(confirm_request)
    total = fleet.unmask(unmask_request)
    saved.append(fleet.states[0].to_bytes())
    certificate, roster = authority.certify(key.public_bytes, 9), authority.enrol(fleet.fleet, 3)
    statement = ReleaseStatement(
        fleet_id="fleet", name="shared", sha256="a" * 64, run_id="r", round=2, epsilon=1.5, delta=1e-5,
        base_sha256="b" * 64,
    )  # fmt: skip
    release = messages.SignedRelease(statement=sign_document(statement, key), data=b"weights")
    written: list[messages.Message] = [
        task, share_request, confirm_request, unmask_request, collect_requests[0], statement, authority.invitation,
        messages.SetupRequest(certificate=certificate, challenge=bytes(32), roster=roster, releases=(release,)),
        messages.SetupReply(identity=key.public_bytes, signature=bytes(64), roster_serial=3, artefacts=("a" * 64,)),
        messages.AdvertiseRequest(certificate=certificate, task=sign_document(task, key)),
        messages.Refusal(reason=messages.RefusalReason.BUDGET),
        fleet_trust.ServerCertificate.from_bytes(certificate[64:]), fleet_trust.RosterDocument.from_bytes(roster[64:]),
    ]  # fmt: skip
    kinds: list[type[messages.Message]] = [type(message) for message in written]
    kinds += [messages.AdvertiseReply, messages.ShareReply, messages.CollectReply, messages.ConfirmReply]
    kinds += [messages.UnmaskReply]
    found: dict[str, tuple[Parser, list[bytes]]] = {}
    for kind in kinds:
        found[kind.__name__] = (_canonical(kind), _accepted(kind, [*fleet.received, *(m.to_bytes() for m in written)]))
    public = key.public_bytes
    for document, data in ((fleet_trust.RosterDocument, roster), (fleet_trust.ServerCertificate, certificate)):
        found[f"signed {document.__name__}"] = (
            lambda data, document=document: open_document(document, data, public, "fleet"),  # type: ignore[misc]
            [data],
        )
    one, weights = frame(), Coordinates(frame().digest, np.ones((2, 4)))
    metadata = AdapterMetadata(base_sha256="a" * 64, frame_sha256="b" * 64, epsilon=1.0, created="2024-01-01")
    adapter = write_adapter(
        {"blk.0.attn_v": (np.ones((2, 4), "f4"), np.ones((4, 2), "f4"))},
        alpha=2.0, metadata=metadata, architecture="llama", heads=2, kv_heads=2,
    )  # fmt: skip
    length = RoundPlan.of(task).layout.dimension
    packed = codec.pack(total, task.ring_bits)
    found |= {
        "DeviceRound": (secure_sum.DeviceRound.from_bytes, saved),
        "Frame": (Frame.from_bytes, [one.to_bytes()]),
        "Coordinates": (
            lambda data: Coordinates.from_bytes(data, frame_sha256=one.digest, dimension=4),
            [weights.to_bytes()],
        ),
        "adapter metadata": (read_adapter_metadata, [adapter]),
        "adapter": (read_adapter, [adapter]),
        "GGUF header": (read_header, [adapter]),
        "RoundOutcome": (
            lambda data: RoundOutcome.from_bytes(task, data),
            [decode_sum(task, total, 4).to_bytes()],
        ),
        "packed vector": (lambda data: codec.unpack(data, length, task.ring_bits), [packed]),
    }
    return found


def _canonical(kind: type[messages.Message]) -> Parser:
    def parse(data: bytes) -> object:
        message = kind.from_bytes(data)
        if message.to_bytes() != data:
            raise AssertionError("accepted bytes are not the message's own encoding")
        return message

    return parse


def mutate(data: bytes, maximum: int, seed: int) -> bytes:
    """Another input for the same parser: one value of its CBOR changed, or libFuzzer's own mutation."""
    rng = random.Random(seed)
    if len(data) > 1 and rng.random() < 0.5:
        try:
            changed = cbor2.dumps(_changed(read_plain(data[1:]), rng), canonical=True)
        except Exception:
            changed = b""  # not CBOR (any more)
        if changed and len(changed) < maximum:
            return data[:1] + changed
    return bytes(atheris.Mutate(data, maximum))


def _changed(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        place = rng.choice(list(value))
        if rng.random() < 0.1:
            return {key: item for key, item in value.items() if key != place}
        return {**value, place: _changed(value[place], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        index = rng.randrange(len(value))
        return [_changed(item, rng) if number == index else item for number, item in enumerate(value)]
    if isinstance(value, bytes) and value and rng.random() < 0.7:
        return bytes(atheris.Mutate(value, len(value) + 8))
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.5:
        return value + rng.choice((-1, 1, 1 << 16, -(1 << 16)))
    return rng.choice(ODD_VALUES)


def _accepted(kind: type[messages.Message], candidates: list[bytes]) -> list[bytes]:
    """Those of the candidates that are messages of this kind."""
    kept = []
    for data in candidates:
        try:
            kind.from_bytes(data)
        except PenchantError:
            continue
        kept.append(data)
    return kept


def careless(data: bytes) -> object:
    """A parser as one should not write it: a length from the wire, believed."""
    count = int.from_bytes(data[:2], "little")
    return [data[4 + index] for index in range(count)]


def main() -> None:
    """Fuzz until the time is over (exit 0) or something is found (exit other than 0)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--planted", action="store_true")
    options = parser.parse_args()
    known = targets()
    if options.planted:
        known["Refusal"] = (careless, [b"\2\0\0\0ab"])
    parsers = [entry for entry, _ in known.values()]
    runs = dict.fromkeys(known, 0)
    names = list(known)

    folder: Path = options.folder
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    for number, (_, seeds) in enumerate(known.values()):
        for place, seed in enumerate(seeds):
            (corpus / f"{number}-{place}").write_bytes(bytes([number]) + seed)

    def one_input(data: bytes) -> None:
        if not data:
            return
        which = data[0] % len(parsers)
        runs[names[which]] += 1
        with contextlib.suppress(PenchantError):
            parsers[which](data[1:])
        if sum(runs.values()) % 10_000 == 0:
            (folder / "runs").write_text("".join(f"{count} {name}\n" for name, count in runs.items()))

    arguments = [f"-max_total_time={options.seconds}", f"-max_len={MAXIMUM_INPUT}", "-timeout=10", "-rss_limit_mb=0"]
    atheris.Setup(
        [sys.argv[0], *arguments, f"-artifact_prefix={folder}/", str(corpus)], one_input, custom_mutator=mutate
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
