"""Versions compared by the texts that both were judged on, and taken back when their owner likes them less."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.adapters.log import AdapterLog, AdapterVersion
from edge_runtime.adapters.versions import LEVEL, RollBack, compare, fisher_exact, record_losses, watch
from edge_runtime.device import Device
from edge_runtime.forgetting import forget
from edge_runtime.store.vault import LEARNT_PREFIX
from protocol.errors import PenchantError
from tests.edge_runtime.adapters.test_log import BASE, tiny_adapter
from tests.edge_runtime.memory_helpers import HashingEmbedder


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device.open(tmp_path, create=True, key_method="file", embedder=HashingEmbedder()) as opened:
        yield opened


def answer(device: Device, version: AdapterVersion | None, verdicts: str, *, base: str = BASE, others: int = 0) -> None:
    """One answer for each letter: u(p), d(own), e(dited) or . (nothing said), given with a version."""
    adapters = [{"sha256": version.sha256, "scale": 1.0}] if version else []
    adapters += [{"sha256": f"{n}" * 64, "scale": 1.0} for n in range(others)]
    talk = device.conversations.new()
    for number, verdict in enumerate(verdicts):
        question = f"{talk} {number}?"
        device.conversations.add(talk, "user", question)
        turn = device.conversations.add(
            talk, "assistant", f"Answer {number}.", {"adapters": adapters, "model_sha256": base}
        )
        if verdict == "e":
            device.feedback.edit(turn, question, "Better so.")
        elif verdict in "ud":
            device.feedback.thumbs(turn, question, verdict == "u")


def look(device: Device) -> RollBack | None:
    return watch(device.vault, device.conversations, device.feedback)


def looks(device: Device) -> list[tuple[int, ...]]:
    return device.vault.connection.execute(
        "SELECT adapter_id, answers, unwelcome, parent_answers, parent_unwelcome, rolled_back FROM adapter_looks"
    ).fetchall()


def live(device: Device) -> int | None:
    found = device.adapters.live()
    return found[0].id if found else None


# ---- notes and parents


def test_a_version_knows_its_parent_and_gathers_notes(device: Device) -> None:
    log = device.adapters
    first, second = log.install(tiny_adapter(0), note="own texts"), log.install(tiny_adapter(1), note="")
    log.use(None)
    third = log.install(tiny_adapter(2), note="")
    assert [one.parent_id for one in (first, second, third)] == [None, first.id, None]
    assert log.annotate(first.id, "  shorter\n replies ").note == "own texts\nshorter replies"
    assert log.annotate(first.id, "kind").note == "own texts\nshorter replies\nkind"
    assert log.annotate(second.id, "kind").note == "kind" and live(device) == third.id
    for number, text in ((9, "kind"), (first.id, " \n ")):
        with pytest.raises(PenchantError):
            log.annotate(number, text)


def test_a_forgotten_word_leaves_the_notes_and_every_version_that_saw_it(device: Device) -> None:
    """All versions go: none can say what it learnt from; and what was measured on the words goes with them."""
    item, log = device.memory.remember("My dog is called Bruno"), device.adapters
    first, second = log.install(tiny_adapter(0), note="own texts"), log.install(tiny_adapter(1), note="own texts")
    log.annotate(first.id, "speaks of Bruno")
    log.annotate(second.id, "shorter")
    record_losses(device.vault, first.id, {"a": 1.0})
    forget(device, [item.id])
    assert [(one.held, one.live and one.held) for one in log.versions()] == [(False, False)] * 2
    assert [one.note for one in log.versions()] == ["", "own texts\nshorter"]
    assert live(device) is None and device.vault.blob_names(LEARNT_PREFIX) == [] and look(device) is None
    with pytest.raises(PenchantError, match="never judged"):
        compare(device.vault, first.id, second.id)


# ---- comparison


def test_versions_are_compared_text_by_text(device: Device) -> None:
    log = device.adapters
    first, second = log.install(tiny_adapter(0), note=""), log.install(tiny_adapter(1), note="")
    names = [f"text {n}" for n in range(40)]
    hard = np.random.default_rng(0).uniform(2.0, 6.0, 40)
    gains = np.random.default_rng(1).normal(0.1, 0.1, 40)
    record_losses(device.vault, first.id, dict(zip(names, hard.tolist(), strict=True)) | {"only the first": 99.0})
    record_losses(device.vault, second.id, dict(zip(names[:20], (hard - gains).tolist(), strict=False)))
    record_losses(device.vault, second.id, dict(zip(names[20:], (hard - gains)[20:].tolist(), strict=True)))
    found = compare(device.vault, first.id, second.id)
    assert found.texts == 40 and found.gain == pytest.approx(gains.mean())
    assert found.first_loss - found.second_loss == pytest.approx(found.gain)
    half = 1.96 * gains.std(ddof=1) / np.sqrt(40)  # the normal interval, which the bootstrap's is close to
    assert found.low == pytest.approx(gains.mean() - half, abs=0.006)
    assert found.high == pytest.approx(gains.mean() + half, abs=0.006)
    back = compare(device.vault, second.id, first.id)
    assert back.gain == pytest.approx(-found.gain) and back.high == pytest.approx(-found.low, abs=1e-9)


def test_too_few_texts_bound_nothing_and_none_in_common_is_an_error(device: Device) -> None:
    version = device.adapters.install(tiny_adapter(0), note="")
    record_losses(device.vault, None, {"a": 4.0, "b": 3.0})
    record_losses(device.vault, version.id, {"a": 3.5, "b": 3.0})
    found = compare(device.vault, None, version.id)
    assert (found.texts, found.gain, found.low, found.high) == (2, 0.25, None, None)
    other = device.adapters.install(tiny_adapter(1), note="")
    with pytest.raises(PenchantError, match="never judged on the same"):
        compare(device.vault, version.id, other.id)
    with pytest.raises(PenchantError, match="no adapter 9"):
        compare(device.vault, None, 9)


# ---- watch


def test_fishers_test_is_scipys() -> None:
    scipy = pytest.importorskip("scipy.stats")
    for table in ((3, 20, 1, 20), (0, 20, 5, 30), (12, 40, 5, 80), (20, 20, 0, 20), (7, 25, 30, 100), (0, 9, 0, 9)):
        bad, count, parent_bad, parent_count = table
        expected = scipy.fisher_exact(
            [[bad, count - bad], [parent_bad, parent_count - parent_bad]], alternative="greater"
        )
        assert fisher_exact(*table) == pytest.approx(expected.pvalue, rel=1e-9)


def test_a_version_that_is_liked_less_goes_back_to_its_parent_with_a_reason(device: Device) -> None:
    first = device.adapters.install(tiny_adapter(0), note="own texts")
    answer(device, first, "u" * 10 + "d" + "." * 19)
    second = device.adapters.install(tiny_adapter(1), note="own texts")
    answer(device, second, "ddddeeee" + "u" * 2 + "." * 9)
    assert look(device) is None and looks(device) == []  # 19 answers are too few
    answer(device, second, ".")
    rolled = look(device)
    assert rolled is not None and (rolled.version, rolled.to) == (second.id, first.id)
    assert live(device) == first.id and looks(device) == [(second.id, 20, 8, 30, 1, 1)]
    for part in ("of its first 20 answers 8 were thumbed down or edited", "adapter 1", "1 of 30", "p = 0.0016"):
        assert part in rolled.reason
    assert device.adapters.version(second.id).note == f"own texts\n{rolled.reason}"
    assert look(device) is None
    device.adapters.use(second.id)  # the owner has the last word
    answer(device, second, "d" * 40)
    assert look(device) is None and live(device) == second.id


def test_without_a_parent_it_goes_back_to_the_model_alone(device: Device) -> None:
    answer(device, None, "." * 25)
    version = device.adapters.install(tiny_adapter(0), note="")
    answer(device, version, "d" * 12 + "." * 8)
    rolled = look(device)
    assert rolled is not None and rolled.to is None and live(device) is None and "the model alone" in rolled.reason


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("d" * 3 + "." * 17, "d" * 7 + "." * 13),  # 7 of 20 against 3: chance
        ("." * 19, "d" * 20),  # too few of the parent's
        ("d" * 2 + "." * 38, "d" * 9 + "u" * 11),  # all are judged now: 45 % of the judged, 100 % before
        ("d" * 20, "." * 20),
    ],
)
def test_what_may_be_chance_or_another_habit_changes_nothing(device: Device, before: str, after: str) -> None:
    answer(device, None, before)
    version = device.adapters.install(tiny_adapter(0), note="")
    answer(device, version, after)
    assert look(device) is None and live(device) == version.id


def test_answers_of_another_model_a_mixture_or_without_audit_count_for_nobody(device: Device) -> None:
    answer(device, None, "." * 30)
    version = device.adapters.install(tiny_adapter(0), note="")
    answer(device, version, "d" * 10, base="b" * 64)
    answer(device, version, "d" * 10, others=1)
    talk = device.conversations.new()
    for _ in range(10):
        device.conversations.add(talk, "assistant", "Merged.")
    assert look(device) is None and looks(device) == []


def test_looks_are_due_at_20_40_80_answers_and_share_the_level(device: Device) -> None:
    answer(device, None, "." * 100)
    version = device.adapters.install(tiny_adapter(0), note="")
    for more in (20, 5, 15, 30, 10):
        answer(device, version, "." * more)
        assert look(device) is None and look(device) is None
    assert [row[1] for row in looks(device)] == [20, 40, 80]
    levels = [level for (level,) in device.vault.connection.execute("SELECT level FROM adapter_looks")]
    assert levels == [LEVEL / 2, LEVEL / 4, LEVEL / 8]
    answer(device, version, "d" * 80)  # late, but sure: the first 160 answers
    rolled = look(device)
    assert rolled is not None and looks(device)[-1][:3] == (version.id, 160, 80)


def test_answers_before_a_version_were_the_models_alone_if_its_parent_gave_none(device: Device) -> None:
    device.adapters.install(tiny_adapter(0), note="", serves=["drafts"])
    answer(device, None, "." * 30)
    version = device.adapters.install(tiny_adapter(1), note="")
    answer(device, version, "d" * 20)
    rolled = look(device)
    assert rolled is not None and rolled.version == version.id and looks(device)[-1][3:5] == (30, 0)


def test_a_version_as_good_as_its_parent_hardly_ever_goes() -> None:
    """The rule of `watch` over 4,000 lives of 320 answers at the same 20 % unwelcome: at most the level."""
    random, gone, lives = np.random.default_rng(0), 0, 4000
    for _ in range(lives):
        parent, mine = int(random.binomial(60, 0.2)), (random.random(320) < 0.2).cumsum()
        gone += any(
            fisher_exact(int(mine[20 * 2**k - 1]), 20 * 2**k, parent, 60) <= LEVEL / 2 ** (k + 1) for k in range(5)
        )
    assert gone / lives <= LEVEL


def test_an_edit_is_found_by_its_words(device: Device) -> None:
    log = AdapterLog(device.vault)
    answer(device, None, "." * 20)
    version = log.install(tiny_adapter(0), note="")
    answer(device, version, "e" * 8 + "." * 12)
    rolled = look(device)
    assert rolled is not None and looks(device) == [(version.id, 20, 8, 20, 0, 1)]
