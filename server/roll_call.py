"""Who is there, under which node, and which artefacts each device holds; hands over what is missing.

Flower's node ids change from run to run, a device's identity does not: rounds speak of identities, and the
roll call says where each can be reached now.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from flwr.serverapp import Grid

from protocol.errors import PenchantError
from protocol.keys import verify
from protocol.messages import SetupReply, SetupRequest, SignedRelease, setup_transcript
from server.credentials import ServerCredentials
from server.round import Progress, ProgressSink
from server.transport import Answer, ask

BEFORE_ALL_ROUNDS = -1


class RollCall:
    """`nodes`: {identity in hex: node id} of every member that has answered. Silent devices are left out."""

    def __init__(
        self,
        grid: Grid,
        credentials: ServerCredentials,
        run_id: str,
        seconds: float,
        on_progress: ProgressSink,
    ) -> None:
        self.nodes: dict[str, int] = {}
        self._held: dict[str, set[str]] = {}
        self._serial: dict[str, int] = {}
        self._grid, self._run_id, self._seconds, self._on_progress = grid, run_id, seconds, on_progress
        self._credentials = credentials
        self._challenge = os.urandom(32)

    def call(self) -> None:
        """Ask every node of the grid that has not answered yet."""
        empty = SetupRequest(certificate=self._credentials.certificate, challenge=self._challenge).to_bytes()
        self._ask(dict.fromkeys(set(self._grid.get_node_ids()) - set(self.nodes.values()), empty))

    def supply(self, identities: Iterable[str], releases: Mapping[str, SignedRelease]) -> None:
        """Send each of these devices the releases (by SHA-256 in hex) that it does not hold yet, and the members' list
        if its own is older."""
        encoded: dict[tuple[bool, tuple[str, ...]], bytes] = {}  # most devices lack the same: encode it once
        requests: dict[int, bytes] = {}
        for identity in identities:
            old = self._serial.get(identity, 0) < self._credentials.serial
            missing = tuple(sorted(set(releases) - self._held.get(identity, set())))
            if identity not in self.nodes or not (old or missing):
                continue
            if (old, missing) not in encoded:
                encoded[old, missing] = SetupRequest(
                    certificate=self._credentials.certificate,
                    challenge=self._challenge,
                    roster=self._credentials.roster if old else b"",
                    releases=tuple(releases[digest] for digest in missing),
                ).to_bytes()
            requests[self.nodes[identity]] = encoded[old, missing]
        self._ask(requests)

    def _ask(self, requests: Mapping[int, bytes]) -> None:
        answered: set[int] = set()

        def note(answers: list[Answer]) -> None:
            for answer in answers:
                if answer.data is not None and self._enter(answer.node_id, answer.data):
                    answered.add(answer.node_id)
            self._on_progress(Progress(self._run_id, BEFORE_ALL_ROUNDS, 0, "setup", len(answered), len(requests)))

        group = f"{self._run_id}/setup"
        ask(self._grid, "setup", requests, group=group, seconds=self._seconds, on_answers=note)

    def _enter(self, node_id: int, data: bytes) -> bool:
        try:
            reply = SetupReply.from_bytes(data)
            verify(reply.identity, setup_transcript(self._challenge, reply.identity), reply.signature)
        except PenchantError:
            return False
        if reply.identity not in self._credentials.members:
            return False
        identity = reply.identity.hex()
        # Two nodes with one identity's key: the first keeps it for this run.
        if self.nodes.setdefault(identity, node_id) != node_id:
            return False
        self._held[identity], self._serial[identity] = set(reply.artefacts), reply.roster_serial
        return True
