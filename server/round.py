"""One attempt at one secure sum, as a state machine over a Flower `Grid`.

    advertise -> share -> collect -> confirm -> (spend written) -> unmask -> publish          or -> aborted

Every stage asks its members, stores replies as they arrive and closes when all have answered or its deadline
has passed; it goes on with those who answered while they are enough and aborts otherwise, having learnt
nothing. All progress is in the store: a new `RoundRunner` on the same row feeds the stored replies to a fresh
`ServerRound`, closes the closed stages over exactly the members they were closed with, and re-asks, with the
same bytes, only who is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.serverapp import Grid

from protocol.errors import ProtocolError
from protocol.messages import (
    AdvertiseReply,
    CollectReply,
    ConfirmReply,
    Refusal,
    RoundTask,
    ShareReply,
    UnmaskReply,
)
from protocol.secure_sum import ServerRound
from server.aggregate import decode_sum
from server.credentials import ServerCredentials
from server.ledger import ServerLedger
from server.store import STAGES, RoundRow, Store
from server.transport import Answer, ask


@dataclass(frozen=True)
class Progress:
    """One line of progress. `round` is -1 for the roll call; `note` says what went wrong, if anything."""

    run_id: str
    round: int
    attempt: int
    stage: str
    answered: int
    asked: int
    note: str = ""


ProgressSink = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """The default sink."""


class RoundRunner:
    """Takes one stored attempt from wherever it stands to its end, for the devices that `credentials` names.

    `quorum`: share of the cohort at which a stage closes, before its deadline, as soon as nobody is answering.
    """

    def __init__(
        self,
        grid: Grid,
        store: Store,
        ledger: ServerLedger,
        credentials: ServerCredentials,
        row: RoundRow,
        nodes: Mapping[str, int],
        stage_seconds: float,
        on_progress: ProgressSink = ignore_progress,
        *,
        quorum: float = 1.0,
    ) -> None:
        self.grid, self.store, self.ledger, self.row = grid, store, ledger, row
        self.credentials = credentials
        self.nodes, self.stage_seconds, self.on_progress = nodes, stage_seconds, on_progress
        self.quorum = quorum
        self.task = RoundTask.from_bytes(row.task)
        self.secure = ServerRound(self.task, fleet=credentials.members)
        self.refusals: dict[str, str] = {}

    def run(self) -> str:
        """ "" when the decoded sum is in the store; otherwise why the attempt was aborted."""
        try:
            self._advertise()
            self._share()
            self._collect()
            self._confirm()
            self._unmask()
        except ProtocolError as problem:
            reasons = sorted(set(self.refusals.values()))
            text = str(problem) + (f" (devices said: {'; '.join(reasons)[:300]})" if reasons else "")
            self.store.abort(self.row.round_key, text)
            self._report("aborted", 0, 0, text)
            return text
        return ""

    # the five stages

    def _advertise(self) -> None:
        request = self.credentials.sign_task(self.task).to_bytes()
        members = self.store.members(self.row.round_key, "advertise")

        def add(identity: str, data: bytes) -> None:
            reply = AdvertiseReply.from_bytes(data)
            if reply.identity.hex() != identity:
                raise ProtocolError("a node advertised under another identity than its own")
            self.secure.add_advertisement(reply)

        answered = self._gather("advertise", dict.fromkeys(members, request), add)
        self.share_request = self.secure.close_advertise().to_bytes()
        self._advance("advertise", "share", answered)

    def _share(self) -> None:
        members = self.store.members(self.row.round_key, "share")
        answered = self._gather(
            "share",
            dict.fromkeys(members, self.share_request),
            lambda identity, data: self.secure.add_shares(bytes.fromhex(identity), ShareReply.from_bytes(data)),
        )
        collect = self.secure.close_share()
        self.collect_requests = {identity.hex(): request.to_bytes() for identity, request in collect.items()}
        self._advance("share", "collect", answered)

    def _collect(self) -> None:
        answered = self._gather(
            "collect",
            self.collect_requests,
            lambda identity, data: self.secure.add_masked(bytes.fromhex(identity), CollectReply.from_bytes(data)),
        )
        self.confirm_request = self.secure.close_collect().to_bytes()
        self._advance("collect", "confirm", answered)

    def _confirm(self) -> None:
        members = self.store.members(self.row.round_key, "confirm")
        if self.secure.graph.needs_confirmation:
            self._gather(
                "confirm",
                dict.fromkeys(members, self.confirm_request),
                lambda identity, data: self.secure.add_confirmation(
                    bytes.fromhex(identity), ConfirmReply.from_bytes(data)
                ),
                enough=self.secure.confirmed,
            )
        self.unmask_request = self.secure.close_confirm().to_bytes()
        if self._is_open("confirm"):
            self.ledger.spend(self.row, self.task, survivors=members)

    def _unmask(self) -> None:
        members = self.store.members(self.row.round_key, "unmask")
        if self._is_open("unmask"):
            self._gather(
                "unmask",
                dict.fromkeys(members, self.unmask_request),
                lambda identity, data: self.secure.add_unmask(bytes.fromhex(identity), UnmaskReply.from_bytes(data)),
                enough=self.secure.ready,
            )
            outcome = decode_sum(self.task, self.secure.recover_sum(), survivors=len(members))
            self.store.save_outcome(self.row.round_key, outcome.to_bytes())
        self._report("publish", len(members), len(members))

    # plumbing

    def _is_open(self, stage: str) -> bool:
        return self.store.round_row(self.row.round_key).stage == stage

    def _advance(self, stage: str, following: str, answered: list[str]) -> None:
        if self._is_open(stage):
            self.store.advance(self.row.round_key, stage, following, answered)

    def _gather(
        self,
        stage: str,
        requests: Mapping[str, bytes],
        add: Callable[[str, bytes], None],
        enough: Callable[[], bool] | None = None,
    ) -> list[str]:
        """Feed stored replies to `add`; if the stage is open, ask the rest. Returns who counts, sorted."""
        stored = self.store.replies(self.row.round_key, stage)
        if not self._is_open(stage):
            counted = self.store.members(self.row.round_key, STAGES[STAGES.index(stage) + 1])
            for identity in counted:
                if identity in stored:  # whoever did not confirm is still asked to unmask
                    add(identity, stored[identity])
            return counted
        for identity, data in stored.items():
            add(identity, data)
        answered = set(stored)
        asked = {self.nodes[name]: name for name in requests if name in self.nodes and name not in answered}

        # Whoever is later is counted as lost: the sum is exact without them, and their secrets go with the round.
        quorum = max(math.ceil(self.quorum * self.task.cohort_size), self.task.minimum_survivors)

        def on_answers(answers: list[Answer]) -> None:
            fresh: dict[str, bytes] = {}
            for answer in answers:
                identity = asked.get(answer.node_id)
                if identity is None or identity in answered:
                    continue
                problem = answer.problem if answer.data is None else self._try(add, identity, answer.data)
                if answer.data is None or problem:
                    self.refusals[identity] = problem
                else:
                    fresh[identity] = answer.data
            self.store.save_replies(self.row.round_key, stage, fresh)
            answered.update(fresh)
            self._report(stage, len(answered), len(requests))

        ask(
            self.grid,
            stage,
            {node_id: requests[identity] for node_id, identity in asked.items()},
            group=f"{self.row.run_id}/{self.row.round}/{self.row.attempt}",
            seconds=self.stage_seconds,
            on_answers=on_answers,
            enough=enough or (lambda: len(answered) >= quorum),
        )
        return sorted(answered)

    def _try(self, add: Callable[[str, bytes], None], identity: str, data: bytes) -> str:
        """Why a reply cannot be used, or ""."""
        try:
            add(identity, data)
        except ProtocolError as problem:
            try:
                refusal = Refusal.from_bytes(data)
            except ProtocolError:
                return str(problem)
            return refusal.reason.value
        return ""

    def _report(self, stage: str, answered: int, asked: int, note: str = "") -> None:
        self.on_progress(Progress(self.row.run_id, self.row.round, self.row.attempt, stage, answered, asked, note))
