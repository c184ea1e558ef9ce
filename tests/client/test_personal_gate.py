"""The gate: what is sure, at which rates it errs, and that it looks at texts as they are served."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

import client.personal_gate as gate
from client.examples import message_example
from client.personal_gate import HeldOutText, Verdict, decide, held_out_texts, judge, split_newest, token_losses
from client.served_prompts import served_message
from edge_runtime.adapters.adapter_file import AdapterMetadata, write_adapter
from edge_runtime.adapters.log import Task
from edge_runtime.device import Device
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.statements import Statement
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import open_tiny, random_factors

Gains = list[NDArray[np.float64]]


# ---- the decision


def test_the_interval_by_hand() -> None:
    before = [np.array([3.0, 4.0]), np.array([5.0]), np.array([2.0, 2.0, 5.0])]
    after = [np.array([2.5, 3.9]), np.array([4.6]), np.array([2.1, 1.8, 4.1])]
    made = decide(before, after)
    # Gains 0.5 0.1 | 0.4 | -0.1 0.2 0.9: means 0.3, 0.4, 0.33333; weights 1 / (1 / n + 1 / 100)
    weights, means = 1 / (np.array([1 / 2, 1, 1 / 3]) + 1 / 100), np.array([0.3, 0.4, 1 / 3])
    gain = float(weights @ means / weights.sum())
    within = (2 * 0.2**2 + (0.4333333**2 + 0.1333333**2 + 0.5666667**2)) / 3  # 3 degrees of freedom: fewer than NU_0
    spread = (weights @ (means - gain) ** 2 + 3 * within) / (2 + 3)
    low = gain - 1.4758840 * math.sqrt(spread / weights.sum())  # t(0.9, 5) from the tables
    assert made.gain == pytest.approx(gain) == pytest.approx(made.before - made.after)
    assert made.gain_low == pytest.approx(low, abs=1e-6) and made.texts == 3
    assert made.before == pytest.approx(float(weights @ [3.5, 5.0, 3.0] / weights.sum()))


def test_means_alone_give_the_interval_of_student() -> None:
    gains = np.array([0.1, 0.2, -0.05, 0.3])
    made = decide([np.array([3.0 + g]) for g in gains], [np.array([3.0])] * 4)
    low = gains.mean() - stats.t.ppf(0.9, 3) * gains.std(ddof=1) / 2
    assert made.gain == pytest.approx(gains.mean()) and made.gain_low == pytest.approx(low) and made.accepted


def test_a_lucky_text_is_no_gain_and_one_text_bounds_nothing() -> None:
    flat: Gains = [np.zeros(20) for _ in range(8)]
    lucky = [np.full(20, 1.0), *flat[1:]]
    assert decide(lucky, flat).gain > 0 > decide(lucky, flat).gain_low
    assert decide([text + 0.1 for text in flat], flat).accepted
    alone = decide([np.full(9, 4.0)], [np.full(9, 1.0)])
    assert alone.gain == 3.0 and alone.gain_low == -math.inf and not alone.accepted
    assert not decide(flat, flat).accepted  # nothing changed: no gain
    noisy = [np.random.default_rng(place).normal(0, 0.2, 20) for place in range(8)]
    assert not decide([lucky[0], *noisy[1:]], flat).accepted  # quiet tokens elsewhere make it no surer


def test_the_margin_is_what_may_be_lost() -> None:
    random = np.random.default_rng(0)
    after = [3 + random.normal(0, 0.01, 30) for _ in range(9)]
    before = [text - 0.05 for text in after]
    assert not decide(before, after).accepted and not decide(before, after, margin=0.049).accepted
    assert decide(before, after, margin=0.051).accepted


# ---- the texts


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("gate"), context_tokens=gate.SCORING_CONTEXT) as opened:
        yield opened


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device.open(tmp_path, create=True, key_method="file", embedder=HashingEmbedder()) as opened:
        opened.memory.remember_many(
            Statement(f"the {chr(97 + n) * 3} and the thing", "Say the thing.", f"2025-01-{n + 1:02d}")
            for n in range(4)
        )
        opened.feedback.add_preference("The thing?", "you and me", "no", said_at="2025-02-01")
        yield opened


def adapter_for(engine: Engine, size: float) -> bytes:
    return write_adapter(
        random_factors(0, size=size),
        alpha=4.0,
        metadata=AdapterMetadata(engine.model.sha256, ""),
        architecture="llama",
        heads=4,
        kv_heads=2,
    )


def test_the_newest_quarter() -> None:
    assert split_newest("abcdefgh") == (list("abcdef"), ["g", "h"])
    assert [len(split_newest(range(n))[1]) for n in (0, 1, 2, 4, 5, 8, 9)] == [0, 0, 1, 1, 2, 2, 3]
    assert split_newest("abcdefgh", most=1) == (list("abcdefg"), ["h"])


def test_a_text_is_held_in_both_forms_and_named_by_what_is_scored(engine: Engine, device: Device) -> None:
    items = device.memory.items()
    texts = held_out_texts(engine, device, items[2:], device.feedback.preferences())
    assert len(texts) == 3 and texts[1].plain == message_example(engine, items[3])
    assert texts[1].served == served_message(engine, device.memory, items[3], room=864)
    assert all(text.served.tokens[-5:] == text.plain.tokens[-5:] for text in texts)
    before = texts[1].name
    device.memory.forget_traces([1], lambda text: False)  # another prompt: its losses compare with no earlier ones
    again = held_out_texts(engine, device, device.memory.items()[1:], [])
    assert again[1].plain == texts[1].plain and again[1].name != before


def test_a_request_that_fills_the_context_is_left_out(engine: Engine, device: Device) -> None:
    long = device.memory.remember("so", cue="why " * 900, said_at="2025-03-01")
    assert held_out_texts(engine, device, [long], []) == []


def test_losses_are_of_the_reply_under_the_adapter(engine: Engine, device: Device) -> None:
    (text,) = held_out_texts(engine, device, device.memory.items()[-1:], [])
    seen: list[int] = []
    (plain,) = token_losses(engine, [text.served], None, lambda: seen.append(1))
    prompt, reply = text.served.tokens[: text.served.prompt_length], text.served.tokens[text.served.prompt_length :]
    assert np.array_equal(plain, -engine.score(prompt, [reply])[0]) and len(plain) == len(reply) and len(seen) == 1
    (changed,) = token_losses(engine, [text.served], adapter_for(engine, 0.3))
    assert np.abs(changed - plain).max() > 1e-3 and engine.active_adapters == ()
    assert np.array_equal(token_losses(engine, [text.served], None)[0], plain)


def test_a_pause_takes_the_adapter_away(engine: Engine, device: Device) -> None:
    texts = held_out_texts(engine, device, device.memory.items(), [])

    def paused() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        token_losses(engine, [text.plain for text in texts], adapter_for(engine, 0.3), paused)
    assert engine.active_adapters == ()


def test_only_the_prompts_that_serve_decide(monkeypatch: pytest.MonkeyPatch, engine: Engine, device: Device) -> None:
    texts = held_out_texts(engine, device, device.memory.items(), [])
    served = {text.served for text in texts}

    def losses(engine: Engine, examples: list[object], adapter: bytes | None, on_text: object) -> Gains:
        gain = {True: -0.1, False: 0.2}[examples[0] in served] if adapter == b"candidate" else 0.0
        return [np.linspace(3.0, 4.0 + place, 8) - gain for place in range(len(examples))]

    monkeypatch.setattr(gate, "token_losses", losses)
    verdict = judge(engine, texts, None, b"candidate")
    assert verdict.plain.accepted and verdict.plain.gain == pytest.approx(0.2)
    assert not verdict.accepted and verdict.served["drafts"].gain == pytest.approx(-0.1)
    before, after = verdict.alone_losses, verdict.candidate_losses
    assert [after[text.name] - before[text.name] for text in texts] == pytest.approx([0.1] * 4)


def judged(
    monkeypatch: pytest.MonkeyPatch,
    engine: Engine,
    device: Device,
    gains: dict[bytes, tuple[float, float]],
    *,
    serves: tuple[Task, ...] = (),
    choices: int = 4,
) -> Verdict:
    """The verdict where an adapter spares drafts and answers these nats per token."""
    for number in range(choices - 1):
        device.feedback.add_preference(
            f"Which {number}?", f"you and me {number}", "no", said_at=f"2025-03-0{number + 1}"
        )
    texts = held_out_texts(engine, device, device.memory.items(), device.feedback.preferences() if choices else [])
    answers = {text.served for text in texts if text.task == "answers"}

    def losses(engine: Engine, examples: list[object], adapter: bytes | None, on_text: object) -> Gains:
        gain = gains[adapter][examples[0] in answers] if adapter else 0.0
        return [np.linspace(3.0, 4.0 + place, 8) - gain for place in range(len(examples))]

    monkeypatch.setattr(gate, "token_losses", losses)
    return judge(engine, texts, b"live" if serves else None, b"new", serves=serves)


def test_a_task_is_served_only_by_what_surely_helps_it(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, device: Device
) -> None:
    found = judged(monkeypatch, engine, device, {b"new": (0.3, -0.3)})
    assert found.accepted and found.serves == ("drafts",)
    assert found.served["drafts"].gain == pytest.approx(0.3) and found.served["answers"].gain == pytest.approx(-0.3)
    assert judged(monkeypatch, engine, device, {b"new": (-0.3, 0.3)}, choices=1).serves == ("answers",)
    assert not judged(monkeypatch, engine, device, {b"new": (-0.3, 0.0)}, choices=1).accepted


def test_nothing_that_is_served_gets_lost(monkeypatch: pytest.MonkeyPatch, engine: Engine, device: Device) -> None:
    gains = {b"live": (0.2, 0.2), b"new": (0.4, -0.1)}
    both = judged(monkeypatch, engine, device, gains, serves=("drafts", "answers"))
    assert both.serves == ("drafts",) and both.served["drafts"].accepted and not both.accepted
    assert both.lost == ("answers",)
    assert both.served["answers"].gain == pytest.approx(-0.3) and both.alone["answers"].gain == pytest.approx(-0.1)
    drafts = judged(monkeypatch, engine, device, gains, serves=("drafts",), choices=1)
    assert drafts.accepted and drafts.serves == ("drafts",)
    assert drafts.served["answers"] == drafts.alone["answers"]  # what is live does not answer
    assert set(drafts.live_losses) < set(drafts.alone_losses) == set(drafts.candidate_losses)
    worse = judged(
        monkeypatch, engine, device, {b"live": (0.4, 0.0), b"new": (0.3, 0.0)}, serves=("drafts",), choices=1
    )
    assert worse.serves == ("drafts",) and not worse.accepted


def test_a_task_that_cannot_be_judged_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, device: Device
) -> None:
    gains = {b"live": (0.2, 0.2), b"new": (0.4, 0.0)}
    both = judged(monkeypatch, engine, device, gains, serves=("drafts", "answers"), choices=0)
    assert both.accepted and both.serves == ("drafts", "answers") and set(both.served) == {"drafts"}
    assert judged(monkeypatch, engine, device, gains, choices=0).serves == ("drafts",)


@pytest.mark.parametrize("live", [False, True])
def test_progress_covers_all_passes(engine: Engine, device: Device, live: bool) -> None:
    texts = held_out_texts(engine, device, device.memory.items()[2:], [])
    seen: list[float] = []
    now = adapter_for(engine, 0.1) if live else None
    verdict = judge(engine, texts, now, adapter_for(engine, 0.3), seen.append, serves=("drafts",))
    passes = 10 if live else 8
    assert seen == pytest.approx(np.arange(1, passes + 1) / passes) and len(verdict.candidate_losses) == 2
    assert isinstance(texts[0], HeldOutText) and verdict.served["drafts"].gain != verdict.plain.gain
