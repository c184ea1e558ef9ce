"""SecAgg+ (Bell et al. 2020, algorithm 3) as pure state transitions.

The sum of integer vectors x_u mod 2^b, learnt by a server that never sees one x_u. Device u adds

    y_u = x_u + PRG(b_u) + sum_{v in N(u), u < v} PRG(s_uv) - sum_{v in N(u), u > v} PRG(s_uv)     (mod 2^b)

with b_u its own seed and s_uv agreed with neighbour v by X25519. Both b_u and the masking private key are
shared among u's neighbours (Shamir). For a survivor the neighbours reveal b_u, for a dropped device its
masking key, *never both*: with both, x_u would be bare.

    advertise -> share -> mask -> (confirm) -> unmask     each returns (next state, reply); a state is bytes on disk

What a device checks, whatever the server says: the roster is strictly ascending (no duplicates), each entry
signed for exactly this task, all in the pinned fleet, itself among them with its own keys, large enough;
boxes come only from neighbours and open only under this roster; the survivors are enough for the noise, it is
one of them, the neighbours that sent a box are named exactly once and no others, only one list is ever
answered, and a quorum has signed it where the graph alone does not force one list (`protocol.survivor_list`).

Limits. `threshold` - 1 neighbours who collude with the server learn nothing; with more than a tenth of the roster
colluding, a server may show two lists of survivors. A device that sends wrong boxes or shares can spoil a round (it
is noticed, nothing is learnt), not a person's secret.
"""

from protocol.device_round import DeviceRound, Stage
from protocol.roster import check_advertisement, check_roster
from protocol.secure_sum_device import advertise, check_collect, confirm, mask, share, unmask
from protocol.secure_sum_server import ServerRound

__all__ = [
    "DeviceRound",
    "ServerRound",
    "Stage",
    "advertise",
    "check_advertisement",
    "check_collect",
    "check_roster",
    "confirm",
    "mask",
    "share",
    "unmask",
]
