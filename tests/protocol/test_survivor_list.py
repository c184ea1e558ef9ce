"""A signature under one list of survivors says nothing about any other list, task or roster."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.messages import ConfirmRequest
from protocol.survivor_list import survivors_transcript
from tests.protocol.secure_sum_fleet import make_task

TASK = make_task(6)
ROSTER = tuple((bytes([n]) * 32, bytes([n + 100]) * 32, bytes([n + 200]) * 32) for n in range(6))
INDICES = st.lists(st.integers(0, 5), unique=True, max_size=6).map(lambda found: tuple(sorted(found)))


def listed(survivors: tuple[int, ...], dropped: tuple[int, ...]) -> ConfirmRequest:
    return ConfirmRequest(task_digest=TASK.digest(), survivors=survivors, dropped=dropped)


@given(one=st.tuples(INDICES, INDICES), other=st.tuples(INDICES, INDICES))
def test_two_lists_have_one_transcript_only_if_they_are_one(one, other):
    transcripts = [survivors_transcript(TASK, ROSTER, listed(*pair)) for pair in (one, other)]
    assert (transcripts[0] == transcripts[1]) == (one == other)


def test_the_transcript_names_the_task_and_the_roster():
    same = listed((0, 1, 2), (3,))
    known = {survivors_transcript(TASK, ROSTER, same)}
    for changes in (
        {"round": 1},
        {"attempt": 1},
        {"fleet_id": "f"},
        {"artefacts": {"frame": "c" * 64}},
        {"run_id": "s"},
    ):
        known.add(survivors_transcript(make_task(6, **changes), ROSTER, same))
    known.add(survivors_transcript(TASK, ROSTER[:-1], same))
    known.add(survivors_transcript(TASK, ((b"x" * 32, *ROSTER[0][1:]), *ROSTER[1:]), same))
    assert len(known) == 8
