"""A device answers each stage once, repeats itself to the byte, and refuses what its owner or the protocol
forbids.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import client.app
from client.ledger import DeviceLedger
from edge_runtime.device import Device
from protocol.errors import ProtocolError
from protocol.messages import (
    AdvertiseReply,
    AdvertiseRequest,
    CollectReply,
    CollectRequest,
    ConfirmReply,
    Refusal,
    RefusalReason,
    RoundTask,
    SetupRequest,
    ShareReply,
    ShareRequest,
    UnmaskReply,
)
from protocol.messages import Message as WireMessage
from protocol.secure_sum import ServerRound
from server.planning import task_from_plan
from simulations.experiments.local_grid import LocalGrid
from tests.device_help import ask_device, share_artefacts, signed_release, signed_task
from tests.fleet_help import (
    BASE_SHA256,
    CERTIFICATE,
    MeanAlgorithm,
    grid_of,
    in_fleet,
    make_fleet,
    recorded_contributions,
)

PEOPLE = 5


class Fleet:
    """A grid and the requests of one round, taken stage by stage."""

    def __init__(self, folder: Path, people: int = PEOPLE, **settings: Any) -> None:
        self.homes = make_fleet(folder / "devices", people, **settings)
        self.people = people
        self.grid: LocalGrid = grid_of(self.homes, record_payloads=True)
        plan = MeanAlgorithm().next_task([])
        assert plan is not None
        self.plan, self.digests = plan, share_artefacts(self.grid, people, plan)

    def task(self, **changes: Any) -> RoundTask:
        values = {
            "run_id": "r", "round": 0, "attempt": 0, "cohort_size": self.people, "minimum_survivors": 3,
            "dropout_fraction": 1 / 3, "noise_multiplier": 1.0, "delta": 1e-5, "ring_bits": 16,
            "artefacts": self.digests, **changes,
        }  # fmt: skip
        return in_fleet(task_from_plan(self.plan, **values))

    def play(self, task: RoundTask) -> dict[str, list[WireMessage]]:
        """Carry a round through to its end; returns every device's request per stage."""
        server, everybody = ServerRound(task), range(self.people)
        asked: dict[str, list[WireMessage]] = {"advertise": [signed_task(task)] * self.people}
        offers = [
            AdvertiseReply.from_bytes(ask_device(self.grid, "advertise", who, asked["advertise"][who]))
            for who in everybody
        ]
        for offer in offers:
            server.add_advertisement(offer)
        asked["share"] = [server.close_advertise()] * self.people
        for who in everybody:
            data = ask_device(self.grid, "share", who, asked["share"][who])
            server.add_shares(offers[who].identity, ShareReply.from_bytes(data))
        collect = server.close_share()
        asked["collect"] = [collect[offer.identity] for offer in offers]
        for who in everybody:
            data = ask_device(self.grid, "collect", who, asked["collect"][who])
            server.add_masked(offers[who].identity, CollectReply.from_bytes(data))
        asked["confirm"] = [server.close_collect()] * self.people
        for who in everybody:
            data = ask_device(self.grid, "confirm", who, asked["confirm"][who])
            server.add_confirmation(offers[who].identity, ConfirmReply.from_bytes(data))
        asked["unmask"] = [server.close_confirm()] * self.people
        for who in everybody:
            UnmaskReply.from_bytes(ask_device(self.grid, "unmask", who, asked["unmask"][who]))
        return asked

    def refusal(self, stage: str, who: int, request: WireMessage | bytes) -> Refusal:
        return Refusal.from_bytes(ask_device(self.grid, stage, who, request))


def changed(stage: str, request: WireMessage, task: RoundTask) -> WireMessage:
    """Another well-formed request for the same stage of the same round."""
    if isinstance(request, AdvertiseRequest):
        return signed_task(task.model_copy(update={"noise_multiplier": 0.5}))
    if isinstance(request, ShareRequest):
        return request.model_copy(update={"roster": request.roster[:-1]})
    if isinstance(request, CollectRequest):
        first = min(request.boxes)
        return request.model_copy(update={"boxes": {k: v for k, v in request.boxes.items() if k != first}})
    return request.model_copy(update={"survivors": (0, 1, 2, 3), "dropped": (4,)})


def test_every_stage_repeats_itself_to_the_byte_and_refuses_a_changed_request(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    task = fleet.task()
    with recorded_contributions():
        asked = fleet.play(task)
        first = {stage: ask_device(fleet.grid, stage, 0, requests[0]) for stage, requests in asked.items()}
        client.app.close_devices()  # as if a new process had been started for the message
        for stage, requests in asked.items():
            assert ask_device(fleet.grid, stage, 0, requests[0]) == first[stage]
            refusal = fleet.refusal(stage, 0, changed(stage, requests[0], task))
            assert refusal.reason is RefusalReason.STAGE, stage
    with Device.open(fleet.homes[0]) as device:
        (entry,) = DeviceLedger(device.vault).entries()
        assert entry.size_bytes == len(first["collect"]) and entry.roster_size == PEOPLE


def test_secrets_are_gone_after_the_last_reply_and_when_a_later_round_opens(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    with recorded_contributions():
        asked = fleet.play(fleet.task())
        with Device.open(fleet.homes[0]) as device:
            states = device.vault.connection.execute("SELECT state FROM federated_rounds").fetchall()
            assert states == [(None,)]
        later, latest = fleet.task(round=1), fleet.task(round=2)
        AdvertiseReply.from_bytes(ask_device(fleet.grid, "advertise", 0, signed_task(later)))
        AdvertiseReply.from_bytes(ask_device(fleet.grid, "advertise", 0, signed_task(latest)))
        with Device.open(fleet.homes[0]) as device:
            rows = device.vault.connection.execute(
                "SELECT round, state IS NULL FROM federated_rounds ORDER BY round"
            ).fetchall()
            assert rows == [(0, 1), (1, 1), (2, 0)]
        # The earlier rounds cannot be reopened, nor asked anything more.
        assert fleet.refusal("advertise", 0, signed_task(later)).reason is RefusalReason.STAGE
        assert fleet.refusal("unmask", 0, asked["unmask"][0]).reason is RefusalReason.STAGE


def test_stages_cannot_be_skipped(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    with recorded_contributions():
        asked = fleet.play(fleet.task())
        task = fleet.task(round=1)
        ask_device(fleet.grid, "advertise", 0, signed_task(task))
        for stage in ("collect", "confirm", "unmask"):
            request = asked[stage][0].model_copy(update={"task_digest": task.digest()})
            assert fleet.refusal(stage, 0, request).reason is RefusalReason.STAGE
        with Device.open(fleet.homes[0]) as device:
            assert len(DeviceLedger(device.vault).entries()) == 1


def test_the_owner_decides(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    cases: list[tuple[dict[str, Any], dict[str, Any], RefusalReason]] = [
        ({"share": False}, {}, RefusalReason.CONSENT),
        ({"epsilon_budget": 1.0}, {}, RefusalReason.BUDGET),
        ({"epsilon_budget": 100.0}, {"noise_multiplier": 0.0}, RefusalReason.BUDGET),
        ({"minimum_roster": PEOPLE + 1}, {}, RefusalReason.ROSTER),
        ({}, {"artefacts": {"shared": "0" * 64}}, RefusalReason.ARTEFACT),
    ]
    with recorded_contributions():
        for number, (rules, changes, reason) in enumerate(cases):
            with Device.open(fleet.homes[0]) as device:
                device.change_settings(**{"share": True, "epsilon_budget": 1e9, "minimum_roster": 3, **rules})
            request = signed_task(fleet.task(round=number, **changes))
            assert fleet.refusal("advertise", 0, request).reason is reason, rules


def test_the_budget_is_spent_round_by_round_and_then_the_device_stays_out(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, epsilon_budget=8.0)
    with recorded_contributions():
        for number in range(2):
            fleet.play(fleet.task(round=number))
        request = signed_task(fleet.task(round=2))
        assert fleet.refusal("advertise", 0, request).reason is RefusalReason.BUDGET
    with Device.open(fleet.homes[0]) as device:
        assert 0.0 < DeviceLedger(device.vault).epsilon(1e-5) <= 8.0


def test_a_stranger_on_the_roster_is_refused(tmp_path: Path) -> None:
    fleet, strangers = Fleet(tmp_path / "ours"), Fleet(tmp_path / "theirs", people=PEOPLE + 1)
    task = fleet.task(cohort_size=PEOPLE + 1)
    server = ServerRound(task)
    with recorded_contributions():
        for who in range(PEOPLE):
            data = ask_device(fleet.grid, "advertise", who, signed_task(task))
            server.add_advertisement(AdvertiseReply.from_bytes(data))
        data = ask_device(strangers.grid, "advertise", PEOPLE, signed_task(task))
        server.add_advertisement(AdvertiseReply.from_bytes(data))
        refusal = fleet.refusal("share", 0, server.close_advertise())
    assert refusal.reason is RefusalReason.ROSTER


def test_failing_work_tells_the_server_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(tmp_path)
    task = fleet.task()
    with recorded_contributions():

        def failing(device: Device) -> Any:
            raise RuntimeError("my diary says: " + "secret")

        with monkeypatch.context() as patch, pytest.raises(ProtocolError, match="CollectReply"):
            patch.setattr(client.app, "work_factory", failing)
            fleet.play(task)
        up = b"".join(t.payload or b"" for t in fleet.grid.transfers)
    assert b"diary" not in up
    with Device.open(fleet.homes[0]) as device:
        assert DeviceLedger(device.vault).entries() == []  # nothing left, so nothing was spent


def test_malformed_bytes_and_altered_artefacts_are_refused(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    with recorded_contributions():
        for stage in ("setup", "advertise", "share", "collect", "confirm", "unmask"):
            assert fleet.refusal(stage, 0, b"not cbor").reason is RefusalReason.MALFORMED
        altered = signed_release("shared", b"these bytes", BASE_SHA256).model_copy(update={"data": b"others"})
        wrong = SetupRequest(certificate=CERTIFICATE, challenge=bytes(32), releases=(altered,))
        assert fleet.refusal("setup", 0, wrong).reason is RefusalReason.ARTEFACT


def test_exchanging_keys_loads_no_training_library() -> None:
    code = (
        "import sys, client.app, client.stages; "
        "heavy = {'torch', 'transformers', 'peft', 'opacus', 'llama_cpp'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
