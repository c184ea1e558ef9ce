"""Agreement on who survived (the consistency check of Bonawitz et al. 2017, section 6.2, and Bell et al. 2020).

*The attack.* A server that controls the network tells half of a victim's neighbours that the victim survived and the
other half that it dropped. If each half can rebuild a secret by itself, the server has both, and the victim is bare.

*What stops it.* Let n be the devices of the roster and q(n) = floor(11 n / 20) + 1. Two sets of q(n) among n share
at least 2 q(n) - n > n / 10 members. So if at most a tenth of them collude with the server, two such sets share an
honest one.

- A graph in which q(degree) of a device's neighbours must act together (`threshold >= q(degree)`) needs nothing
  more: both secrets of one device would take two such sets of its neighbours, and an honest neighbour answers one
  list only. These fleets have four questions per round.
- Any other graph (its threshold leaves room for losses *after* the list is known) gets a fifth question: survivors
  sign the list, a device signs one list only and reveals shares only on seeing q(n) signatures over the very list
  it is asked about. Two different lists cannot both get them, so all honest devices answer the same list and each
  device's neighbours reveal one kind of share.

What it costs: 64 bytes up, the list and q(n) signatures down, and losses *before* the signatures: a quorum of the
roster must still be there when it is asked to sign (a third may have left). After it, only `threshold` neighbours of
each device need to answer. This is as far as it goes: where more than half may vanish between roster and signature,
each half of a divided fleet sees what it would see if the other half had vanished, and no protocol can tell the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from protocol.errors import ProtocolError
from protocol.graph import quorum
from protocol.keys import verify_once
from protocol.messages import RoundTask, SurvivorList
from protocol.roster import RosterKeys, roster_digest


def survivors_transcript(task: RoundTask, roster: Sequence[RosterKeys], request: SurvivorList) -> bytes:
    """The bytes a survivor signs: they bind the list to this task and this roster."""
    parts = [b"penchant/survivors/1", roster_digest(task, roster)]
    for indices in (request.survivors, request.dropped):
        parts.append(len(indices).to_bytes(4, "big"))
        parts.extend(index.to_bytes(4, "big") for index in indices)
    return b"".join(parts)


def check_quorum(
    task: RoundTask, roster: Sequence[RosterKeys], request: SurvivorList, signatures: Mapping[int, bytes]
) -> None:
    """Raises ProtocolError unless a quorum of the roster, all of them survivors, signed exactly this list."""
    needed = quorum(len(roster))
    if len(signatures) < needed:
        raise ProtocolError(
            f"{len(signatures)} of {needed} signatures under the list of survivors; nothing is revealed"
        )
    if not signatures.keys() <= set(request.survivors):
        raise ProtocolError("a signature under the list of survivors is not a survivor's")
    transcript = survivors_transcript(task, roster, request)
    for index, signature in signatures.items():
        verify_once(roster[index][0], transcript, signature)
