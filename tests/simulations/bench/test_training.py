"""The training benchmark compares like with like: same texts, same loss before, time of training alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("peft", reason="the peer is peft: pip install 'penchant[train]'")

from client.examples import Example
from client.lora_layout import LoraLayout
from client.objectives.objective import Objective
from client.personal_plan import EPOCHS
from client.served_prompts import DRAFT_MEMORIES
from edge_runtime.engine.chat_template import ChatMessage
from simulations.bench import training, training_plot
from simulations.bench.lora_loop import LoraLoop
from simulations.bench.loss_curve import Curve, mean_curve, seconds_to
from simulations.bench.training import FORMS, Texts, best_setting, compared, served_texts, speeds, train_ours
from simulations.bench.training_costs import private_cost
from simulations.datasets.village import load_village
from tests.client.framed_help import KINDS, some_texts, tiny_frame, tiny_gguf, tiny_model
from tests.edge_runtime.memory_helpers import HashingEmbedder


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> Texts:
    monkeypatch.setattr("simulations.bench.lora_loop.fast_dtype", lambda: torch.float32)
    made = [Example(tuple(ids), prompt) for ids, prompt in some_texts(9)]
    return Texts(made[:6], Objective("turns", tuple(made[:6])), made[6:])


def test_both_sides_start_from_the_same_loss_and_learn(texts: Texts) -> None:
    layout = LoraLayout.of(tiny_model().module_shapes(KINDS), 2)
    train, held_out = texts.pair()
    ours = train_ours(tiny_model(), layout, texts, [held_out, train])
    peer = LoraLoop(tiny_gguf(), 2)
    theirs = peer.train(train, [held_out, train], rate=3e-3, passes=EPOCHS, batch_size=4)
    for mine, other in zip(ours.curves, theirs, strict=True):
        assert mine.losses[0] == pytest.approx(other.losses[0], rel=1e-4)
        assert len(other.seconds) == len(mine.seconds) == EPOCHS + 1 and mine.seconds == ours.curves[0].seconds
    _, learnt = peer.train(train, [held_out, train], rate=1e-2, passes=2, batch_size=4)
    assert learnt.losses[2] < learnt.losses[1] < learnt.losses[0] - 0.01  # random tokens: only on what was trained on
    assert ours.curves[1].losses[EPOCHS] < learnt.losses[0] - 0.01
    assert peer.train(train, [held_out], rate=3e-3, passes=EPOCHS, batch_size=4)[0].losses == theirs[0].losses
    assert len(ours.thetas) == EPOCHS + 1 and np.array_equal(ours.thetas[0], layout.start(0))
    assert not np.array_equal(ours.thetas[1], ours.thetas[2])


def test_curves() -> None:
    first, second = Curve((0.0, 2.0, 3.0), (5.0, 4.0, 4.5), 10), Curve((0.0, 4.0, 5.0), (3.0, 3.0, 2.5), 20)
    mean = mean_curve([first, second])
    assert mean == Curve((0.0, 3.0, 4.0), (4.0, 3.5, 3.5), 15.0)
    assert mean.rate() == 15 * 2 / 4 and first.best == 1
    assert seconds_to(first, 4.5) == pytest.approx(1.0) and seconds_to(first, 3.9) is None
    assert seconds_to(second, 2.75) == pytest.approx(4.5) and seconds_to(first, 5.5) == 0.0
    assert best_setting({(0.1, 4): [first], (0.2, 2): [second]}) == (0.2, 2, 2)
    assert best_setting({(0.1, 4): [first]}) == (0.1, 4, 1)


def test_the_cases_state_speed_loss_and_its_paired_difference(tmp_path: Path) -> None:
    ours = [Curve((0.0, 1.0), (5.0, 4.0), 10), Curve((0.0, 1.0), (5.0, 4.4), 10)]
    theirs = [Curve((0.0, 4.0), (5.0, 4.1), 10), Curve((0.0, 4.0), (5.0, 4.4), 10)]
    more = {"setting": {"numbers": 7}, "peer_setting": {"numbers": 99}, "people": 2, "threads": 1, "number_format": "x"}
    speed, loss = speeds(ours, theirs, more), compared(ours, theirs, more["peer_setting"])
    assert speed.ratio == pytest.approx(4.0)
    assert loss.more["difference"] == pytest.approx(-0.05)
    assert loss.more["difference_interval"][0] < -0.05 < loss.more["difference_interval"][1]
    assert loss.more["seconds_to_the_peers_best"] == pytest.approx(0.75 / 0.8)
    forms = [f"held_out_loss{form}{size}" for form in FORMS for size in ("", "_top_12")]
    cases = dict.fromkeys(forms, loss.to_dict()) | dict.fromkeys(("examples", "examples_top_12"), speed.to_dict())
    training_plot.draw(cases, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[1:4] == b"PNG"


def test_private_steps_are_measured_against_plain_ones(texts: Texts) -> None:
    case = private_cost(tiny_model(), tiny_frame(), texts.pair()[0], 4)
    assert case.ours > 0 and case.peer is not None and case.peer > 0 and len(case.more["ours_all"]) == 3


class Words:
    """An engine whose tokens are bytes."""

    end_of_turn = (0,)

    def chat_prompt(self, messages: Sequence[ChatMessage]) -> str:
        return "\n".join(message.content for message in messages)

    def tokenise(self, text: str, **_: object) -> list[int]:
        return list(text.encode())


def test_what_is_served_shows_the_texts_trained_on_and_no_later_one() -> None:
    person = load_village()[0]
    served = served_texts(Words(), person, HashingEmbedder())  # type: ignore[arg-type]
    prompts = [bytes(each.tokens[: each.prompt_length]).decode() for each in served]
    for example, prompt, message in zip(served, prompts, person.test_messages, strict=True):
        assert bytes(example.tokens[example.prompt_length :]).rstrip(b"\0") == message.text.encode()
        assert not any(each.text in prompt for each in person.test_messages)
    shown = [sum(each.text in prompt for each in person.train_messages) for prompt in prompts]
    assert max(shown) == DRAFT_MEMORIES and sum(shown) > len(shown)


def test_everybody_has_texts_of_their_own() -> None:
    people = training.village_texts(Words(), 3)  # type: ignore[arg-type]
    assert len(people) == 3 and all(len(each.training) > 20 and len(each.held_out) > 5 for each in people)
    seen = [example.tokens for each in people for example in (*each.training, *each.held_out)]
    assert len(seen) == len(set(seen))
