"""Who is there, under which node, and which artefacts each device holds; hands over what is missing.

Flower's node ids change from run to run, a device's identity does not: rounds speak of identities, and the
roll call says where each can be reached now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flwr.serverapp import Grid

from protocol.errors import PenchantError
from protocol.messages import SetupReply, SetupRequest
from server.round import Progress, ProgressSink
from server.transport import Answer, ask

BEFORE_ALL_ROUNDS = -1


class RollCall:
    """`nodes`: {identity in hex: node id} of every device that has answered. Silent devices are left out, and so is
    whoever is not on the `roster` (None: nobody is enrolled, everybody counts).
    """

    def __init__(
        self,
        grid: Grid,
        run_id: str,
        seconds: float,
        on_progress: ProgressSink,
        roster: frozenset[bytes] | None = None,
    ) -> None:
        self.nodes: dict[str, int] = {}
        self._held: dict[str, set[str]] = {}
        self._grid, self._run_id, self._seconds, self._on_progress = grid, run_id, seconds, on_progress
        self._roster = roster

    def call(self) -> None:
        """Ask every node of the grid."""
        self._ask({node_id: {} for node_id in self._grid.get_node_ids()})

    def supply(self, identities: Iterable[str], artefacts: Mapping[str, bytes]) -> None:
        """Send each of these devices the artefacts ({SHA-256 in hex: bytes}) that it does not hold yet."""
        needs: dict[int, dict[str, bytes]] = {}
        for identity in identities:
            missing = set(artefacts) - self._held.get(identity, set())
            if identity in self.nodes and missing:
                needs[self.nodes[identity]] = {digest: artefacts[digest] for digest in sorted(missing)}
        self._ask(needs)

    def _ask(self, gifts: Mapping[int, Mapping[str, bytes]]) -> None:
        answered: set[int] = set()

        def note(answers: list[Answer]) -> None:
            for answer in answers:
                if answer.data is not None and self._enter(answer.node_id, answer.data):
                    answered.add(answer.node_id)
            self._on_progress(Progress(self._run_id, BEFORE_ALL_ROUNDS, 0, "setup", len(answered), len(gifts)))

        encoded: dict[tuple[str, ...], bytes] = {}  # most devices lack the same artefacts: encode them once
        for gift in gifts.values():
            if tuple(gift) not in encoded:
                encoded[tuple(gift)] = SetupRequest(artefacts=dict(gift)).to_bytes()
        requests = {node_id: encoded[tuple(gift)] for node_id, gift in gifts.items()}
        group = f"{self._run_id}/setup"
        ask(self._grid, "setup", requests, group=group, seconds=self._seconds, on_answers=note)

    def _enter(self, node_id: int, data: bytes) -> bool:
        try:
            reply = SetupReply.from_bytes(data)
        except PenchantError:
            return False
        if self._roster is not None and reply.identity not in self._roster:
            return False
        identity = reply.identity.hex()
        # The first node to claim an identity keeps it for this run; a second one cannot sign for it anyway.
        if self.nodes.setdefault(identity, node_id) != node_id:
            return False
        self._held[identity] = set(reply.artefacts)
        return True
