"""What each way of asking shows to the model, on a tiny random one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.answering.choosing import LEANING_WEIGHT
from edge_runtime.answering.leaning import leanings
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.engine import Engine
from simulations.datasets.prefeval import PreferenceQuestion
from simulations.studies.decay.asking import Asked, ask, fitted, is_right, likelihoods, recalled_from_chats
from simulations.studies.decay.forms import load_forms
from simulations.studies.decay.study import DecaySettings, draw_questions, summary, table
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import adapter_bytes, open_tiny, random_factors
from tests.simulations.studies.prefeval_help import write_prefeval

ROW = PreferenceQuestion("food", "I dislike dill.", "What shall I cook?", ("Soup.", "Dill soup.", "Dill.", "Dill pie."))


def said(*texts: str) -> tuple[ChatMessage, ...]:
    return tuple(ChatMessage("user" if place % 2 == 0 else "assistant", text) for place, text in enumerate(texts))


ASKED = Asked(
    ROW,
    said("I dislike dill.", "Thanks."),
    said("I dislike mint.", "Thanks."),
    tuple(said(f"How are trains {number}?", "They run.") for number in range(3)),
    "I dislike dill.",
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    # A tiny model reads bytes: the worked turns of a prompt with notes alone are near a thousand.
    with open_tiny(tmp_path_factory.mktemp("tiny"), context_tokens=2048) as opened:
        yield opened


def test_a_tie_is_no_answer() -> None:
    assert is_right([1.0, 0.5]) and not is_right([1.0, 1.0]) and not is_right([0.5, 1.0, 0.0])


def test_arms_show_what_they_say(engine: Engine) -> None:
    row = ask(engine, HashingEmbedder(), ASKED, (0, 2))
    scores = row["scores"]
    assert set(scores) == {"none", "stranger", "zero-shot", "reminder", "rag", "choose"}
    assert all(set(cells) == {"0", "2"} and len(cells["0"]) == 4 for cells in scores.values())
    assert len({tuple(scores[arm]["2"]) for arm in scores}) == len(scores)  # every arm is another prompt
    assert row["prompt_tokens"]["2"] > row["prompt_tokens"]["0"] and row["left_out"] == {"0": 0, "2": 0}
    alone = likelihoods(engine, fitted(engine, (), ROW.question, ""), ROW.options)
    assert scores["none"]["0"] == alone
    lean = leanings([ASKED.recalled], ROW.options, HashingEmbedder())
    expected = [one + LEANING_WEIGHT * float(each) for one, each in zip(scores["zero-shot"]["2"], lean, strict=True)]
    assert scores["choose"]["2"] == pytest.approx(expected)


def test_nothing_recalled_is_zero_shot_and_a_known_control_is_not_asked_again(engine: Engine) -> None:
    asked = Asked(ROW, ASKED.own, ASKED.stranger, ASKED.unrelated, "")
    known = {"0": [1.0, 0.0, 0.0, 0.0]}
    scores = ask(engine, HashingEmbedder(), asked, (0,), none=known)["scores"]
    assert scores["rag"] == scores["zero-shot"] == scores["choose"]
    assert scores["none"] is known and "stranger" not in scores


def test_an_adapter_acts_and_is_gone_afterwards(engine: Engine) -> None:
    asked = Asked(ROW, ASKED.own, ASKED.stranger, ASKED.unrelated, "")
    data = adapter_bytes(engine, random_factors(1), alpha=4.0)
    first = ask(engine, HashingEmbedder(), asked, (0,), adapter=data, none={"0": [0.0] * 4})["scores"]
    assert first["adapter"]["0"] != first["zero-shot"]["0"] and first["rag+adapter"] == first["adapter"]
    assert engine.active_adapters == ()
    assert (
        ask(engine, HashingEmbedder(), asked, (0,), none={"0": [0.0] * 4})["scores"]["zero-shot"] == first["zero-shot"]
    )


def test_the_window_drops_the_oldest_exchanges_first(tmp_path: Path) -> None:
    with open_tiny(tmp_path, context_tokens=512) as small:
        chat = (*ASKED.own, *said("x" * 150, "y" * 150), *said("Last?", "Last."))
        kept = fitted(small, chat, ROW.question, "")
        assert kept.left_out == 4 and len(kept.tokens) <= 512 - 160
        shown = small.detokenise(kept.tokens)
        assert "Last?" in shown and "dill" not in shown
        assert fitted(small, ASKED.own, ROW.question, "").left_out == 0


def test_memories_come_from_the_chats_by_consolidation(tmp_path: Path) -> None:
    chats = load_forms(write_prefeval(tmp_path), "persona-driven")
    person = tuple(row for row in chats if "cinnamon" in row.preference or "buses" in row.preference)
    asked = PreferenceQuestion(person[0].topic, person[0].preference, "Do I like cinnamon?", person[0].options)
    chats[asked] = chats[person[0]]
    found = recalled_from_chats([((asked, person[1]), asked)], chats, HashingEmbedder())
    assert found[asked] == "I do not like cinnamon at all."


def test_questions_are_the_same_for_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.studies.decay.study.TUNING_TOPICS", 1)
    folder, settings = write_prefeval(tmp_path), DecaySettings(questions=3, turns=(0, 2))
    drawn = [draw_questions(folder, settings, form, HashingEmbedder())[0] for form in ("explicit", "choice-based")]
    assert [one.row for one in drawn[0]] == [one.row for one in drawn[1]]
    assert [one.unrelated for one in drawn[0]] == [one.unrelated for one in drawn[1]]
    assert all(one.own != one.stranger and one.row.topic != "food_dishes" for one in drawn[0])


def test_the_summary_counts_and_pairs() -> None:
    right, wrong = [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]

    def row(zero: list[float], rag: list[float]) -> dict[str, object]:
        scores = {"none": {"0": wrong}, "zero-shot": {"0": zero}, "rag": {"0": rag}}
        common = {"recalled": True, "right_recalled": True, "prompt_tokens": {"0": 10}, "left_out": {"0": 0}}
        return {"scores": scores, **common}

    rows = [row(right, right), row(wrong, right), row(wrong, right), row(wrong, wrong)]
    report = summary({"explicit": rows}, [0])
    cells = report["explicit"]["arms"]
    assert cells["rag"]["0"]["right"][0] == 0.75 and cells["zero-shot"]["0"]["right"][0] == 0.25
    assert cells["rag"]["0"]["over zero-shot"][0] == 0.5 and cells["rag"]["0"]["over none"][0] == 0.75
    assert "adapter" not in cells
    assert "| rag | 75.0 [" in table(report, [0])
