"""The ordinary LoRA tier: its numbers, its gradients by hand, its runs that are paused, and what llama.cpp makes of
it."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

import client.personal_lora
from client.dp_sgd import PrivateSettings, prepare_examples
from client.personal_lora import (
    PrivateLoraWork,
    as_tensors,
    ghost_clipped_sum,
    installed,
)
from client.privacy_units import units_of
from client.training_run import (
    RunPlan,
    TrainingPaused,
    generator_of,
    kept_state,
    open_run,
    run_training,
)
from client.training_work import TextWork
from edge_runtime.adapters.adapter_file import AdapterMetadata, write_adapter
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import describe_model
from edge_runtime.store.vault import Vault
from protocol.errors import PenchantError
from tests.client.framed_help import some_texts, tiny_gguf, tiny_model
from tests.client.lora_oracle import layout, loop_gradients, some_point, text_work
from tests.tiny_model import HEADS, KV_HEADS

PRIVATE = PrivateSettings(8.0, 1e-3, 3.0, 0.5, 0.5, 0.01)


def private_work(noise: float = 1.3, labels: str = "abcdef") -> PrivateLoraWork:
    pytest.importorskip("opacus", reason="private training needs opacus: pip install 'penchant[train]'")
    return PrivateLoraWork(tiny_model(), layout(), some_texts(), PRIVATE, noise, max_tokens=160, units=units_of(labels))


def test_the_start_changes_nothing_and_is_the_same_for_a_seed() -> None:
    start = layout().start(1)
    for a, b in layout().lora_factors(start).values():
        assert not b.any() and np.abs(a).max() <= a.shape[1] ** -0.5 and a.std() > 0.3 * a.shape[1] ** -0.5
    assert np.array_equal(start, layout().start(1)) and not np.array_equal(start, layout().start(2))
    tokens = some_texts()[0][0]
    plain = tiny_model().log_probabilities(tokens)
    with installed(tiny_model(), as_tensors(layout().lora_factors(start))):
        assert np.allclose(tiny_model().log_probabilities(tokens), plain, atol=1e-6)
    with installed(tiny_model(), as_tensors(layout().lora_factors(some_point()))):
        assert not np.allclose(tiny_model().log_probabilities(tokens), plain, atol=1e-3)
    assert np.array_equal(tiny_model().log_probabilities(tokens), plain)  # and it leaves no trace


def run(vault: Vault, work: TextWork | PrivateLoraWork, start: np.ndarray, pause_at: int | None, noise: float) -> bytes:
    plan = RunPlan(work, "t", "s", 4, noise, 0.5)
    state = open_run(vault, plan, start, fresh=False, on_notice=lambda line: None)
    taken = iter(range(state.step, 10**6))
    state = run_training(
        state,
        work,
        vault,
        on_progress=lambda fraction: None,
        wants_pause=lambda: "stop" if next(taken) == pause_at else None,
    )
    return state.theta.tobytes()


@pytest.fixture
def vaults(tmp_path: Path) -> Iterator[list[Vault]]:
    opened = [Vault.open(tmp_path / name, bytes(range(32))) for name in "ab"]
    yield opened
    for vault in opened:
        vault.close()


@pytest.mark.parametrize("private", [False, True])
def test_a_run_that_was_paused_ends_with_the_same_bits(
    vaults: list[Vault], private: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make() -> TextWork | PrivateLoraWork:
        return private_work() if private else text_work()

    monkeypatch.setattr("client.training_run.os.urandom", lambda count: bytes(range(count)))
    noise = 1.3 if private else 0.0
    whole = run(vaults[0], make(), layout().start(0), None, noise)
    with pytest.raises(TrainingPaused):
        run(vaults[1], make(), layout().start(0), 2, noise)
    state = kept_state(vaults[1])
    assert state is not None and state.step == 2
    assert run(vaults[1], make(), layout().start(0), None, noise) == whole
    assert whole != layout().start(0).tobytes()


def test_a_private_step_is_the_papers_step() -> None:
    """Replayed by hand from the oracle's gradients: wrong sign, weight, clip, noise or divisor fails."""
    work, theta = private_work(), some_point()
    batch = prepare_examples(tiny_model(), some_texts()).batch
    assert batch is not None and work.steps == 6
    each = loop_gradients(layout(), theta, batch, 6)
    sizes = set()
    for step in range(3):
        random = generator_of(11, step)
        sampled = np.flatnonzero(random.random(6) < 0.5)
        sizes.add(len(sampled))
        total = sum(each[i] * min(1.0, 0.5 / np.linalg.norm(each[i])) for i in sampled)
        wanted = (total + random.normal(0.0, 1.3 * 0.5, layout().dimension)) / (0.5 * 6)
        for rows in (16, 2):
            assert np.allclose(work.gradient(theta, 11, step, rows), wanted, atol=1e-5)
    assert len(sizes) > 1


def test_the_clipped_part_is_there_without_noise() -> None:
    # At the noise of a real run the test above would hardly see a missing gradient.
    work, theta = private_work(noise=0.0), some_point()
    batch = prepare_examples(tiny_model(), some_texts()).batch
    assert batch is not None
    each = loop_gradients(layout(), theta, batch, 6)
    sampled = np.flatnonzero(generator_of(2, 0).random(6) < 0.5)
    wanted = sum(each[i] * min(1.0, 0.5 / np.linalg.norm(each[i])) for i in sampled) / 3.0
    ours = work.gradient(theta, 2, 0, 16)
    assert len(sampled) and np.linalg.norm(ours - wanted) <= 1e-4 * np.linalg.norm(wanted)


def test_a_conversation_is_clipped_as_one() -> None:
    labels, theta = "aabbbc", some_point()
    work = private_work(noise=0.0, labels=labels)
    batch = prepare_examples(tiny_model(), some_texts()).batch
    assert batch is not None
    each = loop_gradients(layout(), theta, batch, 6)
    seed = next(s for s in range(99) if (generator_of(s, 0).random(3) < 0.5).all())
    wanted = np.zeros(layout().dimension)
    for members in units_of(labels).members:
        together = each[members].sum(0)
        wanted += together * min(1.0, 0.5 / np.linalg.norm(together))
    for rows in (16, 2):  # also when a conversation does not fit into memory at once
        ours = work.gradient(theta, seed, 0, rows) * (0.5 * 3)
        assert np.linalg.norm(ours - wanted) <= 1e-4 * np.linalg.norm(wanted)


def test_texts_without_targets_take_part_and_move_nothing() -> None:
    ids, _ = some_texts()[0]
    work = PrivateLoraWork(tiny_model(), layout(), [(ids, len(ids))], PRIVATE, 1.0, max_tokens=160)
    moved = work.gradient(some_point(), 0, 0, 16)
    assert moved.std() == pytest.approx(0.5 / 0.5, rel=0.1)


def test_an_adapter_of_layers_that_are_not_open_is_refused() -> None:
    wrong = {"blk.0.attn_q": (np.zeros((2, 64), np.float32), np.zeros((64, 2), np.float32))}
    with pytest.raises(PenchantError, match=r"blk\.0\.attn_q"), installed(tiny_model(), as_tensors(wrong)):
        pass


def test_llama_cpp_serves_what_torch_trained() -> None:
    """The same log-probabilities from the adapter's file: q's permuted rows, both factors and the scale."""
    theta, model = some_point(0.1), describe_model(tiny_gguf())
    data = write_adapter(
        layout().lora_factors(theta),
        alpha=float(layout().rank),
        metadata=AdapterMetadata(model.sha256, ""),
        architecture="llama",
        heads=HEADS,
        kv_heads=KV_HEADS,
    )
    tokens, prompt = some_texts()[2]
    with installed(tiny_model(), as_tensors(layout().lora_factors(theta))):
        ours = tiny_model().log_probabilities(tokens)[prompt - 1 :]
    with Engine.open(model, context_tokens=128, threads=1) as engine:
        plain = engine.score(tokens[:prompt], [tokens[prompt:]])[0]
        engine.use_adapters([(engine.load_adapter(data, sha256=sha256(data).hexdigest()), 1.0)])
        served = engine.score(tokens[:prompt], [tokens[prompt:]])[0]
    assert np.allclose(served, ours, atol=2e-2) and np.abs(served - plain).max() > 0.2


def test_the_ghost_takes_as_much_memory_as_the_smaller_form(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    class Counting(client.personal_lora.Recorder):
        def clipped_sum(self, clip_norm: float):  # type: ignore[no-untyped-def]
            held.append(sum(one.numel() for pair in self.held.values() for one in pair))  # type: ignore[union-attr]
            return super().clipped_sum(clip_norm)

    monkeypatch.setattr(client.personal_lora, "Recorder", Counting)
    batch = prepare_examples(tiny_model(), some_texts(5)).batch
    assert batch is not None
    ghost_clipped_sum(tiny_model(), layout(), batch, some_point(), 0.5)
    assert held == [5 * layout().dimension]  # texts are longer than the rank: one adapter's numbers each, no activation
