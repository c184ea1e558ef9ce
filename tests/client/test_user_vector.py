"""Training the user projection on a device: gradients through every layer, a text never in its own history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.torch_model import TorchModel
from client.training import Trainer, forget_batches, open_trainer
from client.user_vector import (
    PersonalText,
    UserVectorPlan,
    UserVectorWork,
    open_full_trainer,
    personal_texts,
    soft_losses,
    token_gradients,
    train_projection,
)
from client.user_vector_frame import (
    build_projection_frame,
    captured_energy,
    embedding_directions,
    leading_directions,
    public_gradients,
    token_embeddings,
)
from edge_runtime.device import Device
from edge_runtime.models.catalogue import sha256_of
from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from protocol.messages import RoundTask
from protocol.round_plan import plan_task
from protocol.user_projection import ProjectionFrame
from simulations.studies.user_vector.soft_scoring import SoftScorer
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import random_tokens
from tests.tiny_model import LAYERS, WIDTH, write_tiny_model

# The tiny vocabulary is bytes: its texts are longer than a real model's.
PLAN = UserVectorPlan(messages=4, max_tokens=220, epochs=1, batch_size=2, step=0.1)
TEXTS = [
    (random_tokens(seed, length), prompt) for seed, length, prompt in ((1, 14, 4), (2, 9, 1), (3, 20, 8), (4, 6, 5))
]
MESSAGES = (
    ("Tell Ines about the kiln", "kiln's cracked again, love. shelf two. don't ask"),
    ("Write to the landlord", "Dear Mr Petersen, the boiler is cold once more."),
    ("Invite Teo", "Teo! soup at seven, bring the small dog"),
    ("Note to self", "buy glaze, buy bread, ring mum"),
)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    """The process's own trainer on the tiny model, in float32."""
    path = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf", 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENCHANT_MODEL", str(path))
        patch.setattr("client.torch_model.fast_dtype", lambda: torch.float32)
        open_trainer.cache_clear()
        forget_batches()
        opened = open_full_trainer()
        yield opened
        opened.engine.close()
        open_trainer.cache_clear()
        forget_batches()


@pytest.fixture(scope="module")
def frame(trainer: Trainer) -> ProjectionFrame:
    vectors = HashingEmbedder().embed([text for pair in MESSAGES for text in pair])
    gradients = public_gradients(trainer.torch_model, TEXTS, 1)
    return build_projection_frame(
        trainer.torch_model, trainer.model.sha256, vectors, gradients, 1, input_rank=3, output_rank=3, temperature=0.1
    )


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    home = tmp_path / "home"
    with Device.open(home, create=True, key_method="file", embedder=HashingEmbedder()) as opened:
        for number, (cue, text) in enumerate(MESSAGES):
            opened.memory.remember(text, cue=cue, said_at=f"2025-01-{number + 1:02d}")
        yield opened


def some_tokens(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH))


def summed(model: TorchModel, texts: Any, soft: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return soft_losses(model, texts, torch.from_numpy(soft).float())[0].double().numpy()


def task_for(frame: ProjectionFrame, **changes: Any) -> RoundTask:
    values: dict[str, Any] = {
        "run_id": "run-a",
        "round": 0,
        "kind": "shared",
        "artefacts": {},
        "base_sha256": frame.base_sha256,
        "dimension": frame.dimension,
        "clip_norm": 1.0,
        "noise_multiplier": 1.0,
        "cohort_size": 9,
        "minimum_survivors": 6,
        "delta": 1e-5,
        "settings": PLAN.settings(),
    }
    return plan_task(**{**values, **changes})


def artefacts_of(frame: ProjectionFrame, theta: np.ndarray) -> dict[str, bytes]:
    return {"frame": frame.to_bytes(), "shared": Coordinates(frame.digest, theta[None]).to_bytes()}


def test_the_gradient_reaches_the_token_through_every_layer(trainer: Trainer) -> None:
    model, soft = trainer.torch_model, some_tokens(len(TEXTS))
    losses, counts, gradients = token_gradients(model, TEXTS, soft)
    assert counts.tolist() == [10, 8, 12, 1]
    direction, step = some_tokens(len(TEXTS), 5), 1e-2
    change = summed(model, TEXTS, soft + step * direction) - summed(model, TEXTS, soft - step * direction)
    assert change / (2 * step) == pytest.approx((gradients * direction).sum(1), rel=0.02, abs=2e-3)
    assert losses == pytest.approx(summed(model, TEXTS, soft))


def test_a_text_has_the_same_loss_and_gradient_alone_and_in_any_batch(trainer: Trainer) -> None:
    soft = some_tokens(len(TEXTS))
    together = token_gradients(trainer.torch_model, TEXTS, soft)
    for row, text in enumerate(TEXTS):
        alone = token_gradients(trainer.torch_model, [text], soft[row : row + 1])
        assert alone[0][0] == pytest.approx(together[0][row], rel=1e-4)
        assert alone[2][0] == pytest.approx(together[2][row], rel=1e-3, abs=1e-5)


def test_torch_and_llama_agree_behind_the_same_token(trainer: Trainer) -> None:
    """Float32 weights on both sides; llama.cpp keeps keys and values in float16 (0.001 nats measured)."""
    soft = some_tokens(len(TEXTS))
    ours = summed(trainer.torch_model, TEXTS, soft)
    with SoftScorer(trainer.model) as scorer:
        for row, (ids, prompt) in enumerate(TEXTS):
            scores = scorer.score(soft[row : row + 1].astype(np.float32), ids[:prompt], ids[prompt:])
            assert -scores.mean() == pytest.approx(ours[row] / len(scores), abs=0.01)


def test_a_model_opened_for_its_top_layers_only_is_refused(trainer: Trainer) -> None:
    short = TorchModel.load(trainer.model.path, top_layers=LAYERS - 1, dtype=torch.float32)
    with pytest.raises(PenchantError, match="every layer"):
        token_gradients(short, TEXTS, some_tokens(len(TEXTS)))
    for text in ([5, 6], 2), ([5, 6], 0):
        with pytest.raises(PenchantError, match="prompt"):
            token_gradients(trainer.torch_model, [text], some_tokens(1))


def test_steps_lower_the_loss_have_their_length_and_leave_the_model_alone(
    trainer: Trainer, frame: ProjectionFrame
) -> None:
    random = np.random.default_rng(3)
    people = [row / np.linalg.norm(row) for row in random.normal(size=(len(TEXTS), 3))]
    texts = [PersonalText(text, person) for text, person in zip(TEXTS, people, strict=True)]
    weights = trainer.torch_model.output_weight.clone()
    start = np.zeros(frame.dimension)

    def loss(theta: np.ndarray) -> float:
        tokens = np.stack([frame.token(theta, person) for person in people])
        return float(summed(trainer.torch_model, TEXTS, tokens).sum())

    one = train_projection(trainer.torch_model, frame, texts, start, replace(PLAN, batch_size=4, step=0.05), seed=0)
    assert np.linalg.norm(one.theta) == pytest.approx(0.05)
    assert one.tokens == 31 and one.loss == pytest.approx(loss(start) / 31, rel=1e-4)
    many = train_projection(
        trainer.torch_model, frame, texts, start, replace(PLAN, batch_size=4, step=0.05, epochs=12), seed=0
    )
    assert loss(many.theta) < loss(one.theta) < loss(start)
    assert torch.equal(weights, trainer.torch_model.output_weight)
    assert not any(parameter.requires_grad for parameter in trainer.torch_model._lm.parameters())


def test_texts_that_the_cut_leaves_nothing_of_are_an_error_and_not_a_zero(
    trainer: Trainer, frame: ProjectionFrame
) -> None:
    texts = [PersonalText(TEXTS[0], np.zeros(3))]
    with pytest.raises(PenchantError, match="max_tokens"):
        train_projection(
            trainer.torch_model, frame, texts, np.zeros(frame.dimension), replace(PLAN, max_tokens=4), seed=0
        )


def test_a_text_is_never_in_its_own_history(trainer: Trainer, frame: ProjectionFrame, device: Device) -> None:
    found = personal_texts(trainer, device, frame, newest=2)
    assert len(found) == 2
    embedder = HashingEmbedder()
    held = embedder.embed([f"{cue}\n{text}" for cue, text in MESSAGES])
    for number, one in zip((2, 3), found, strict=True):
        query = embedder.embed([MESSAGES[number][0]])[0]
        assert one.person == pytest.approx(frame.person(np.delete(held, number, axis=0), query), abs=1e-6)
        assert np.abs(one.person - frame.person(held, query)).max() > 1e-3


def test_a_round_trains_on_the_devices_own_texts(trainer: Trainer, frame: ProjectionFrame, device: Device) -> None:
    theta = (0.05 * np.random.default_rng(1).normal(size=frame.dimension)).astype(np.float32).astype(np.float64)
    before = sha256_of(trainer.model.path)
    update = UserVectorWork(device).compute(task_for(frame), artefacts_of(frame, theta))
    texts = personal_texts(trainer, device, frame, PLAN.messages)
    expected = train_projection(trainer.torch_model, frame, texts, theta, PLAN, seed=0)
    assert update.update == pytest.approx(expected.theta - theta)
    assert 0.0 < np.linalg.norm(update.update) <= 2 * PLAN.step + 1e-9
    assert update.loss_sum == pytest.approx(expected.loss)
    assert update.example_count == 1
    assert sha256_of(trainer.model.path) == before == frame.base_sha256


def test_what_does_not_belong_together_is_refused(
    trainer: Trainer, frame: ProjectionFrame, device: Device, tmp_path: Path
) -> None:
    work, held = UserVectorWork(device), artefacts_of(frame, np.zeros(frame.dimension))
    with pytest.raises(PenchantError, match="another model"):
        work.compute(task_for(frame, base_sha256="0" * 64), held)
    with pytest.raises(PenchantError, match="another model"):
        work.compute(task_for(frame, dimension=frame.dimension + 1), held)
    with pytest.raises(PenchantError, match="does not know the training setting warmth"):
        work.compute(task_for(frame, settings={**PLAN.settings(), "warmth": 1}), held)
    elsewhere = replace(frame, base_sha256="0" * 64)
    with pytest.raises(PenchantError, match="another model file"):
        work.compute(task_for(elsewhere), artefacts_of(elsewhere, np.zeros(frame.dimension)))
    foreign = replace(frame, embedder_sha256="0" * 64)
    with pytest.raises(PenchantError, match="embedding model"):
        work.compute(task_for(foreign), artefacts_of(foreign, np.zeros(frame.dimension)))
    with (
        Device.open(tmp_path / "empty", create=True, key_method="file", embedder=HashingEmbedder()) as empty,
        pytest.raises(PenchantError, match="remember something first"),
    ):
        UserVectorWork(empty).compute(task_for(frame), held)


def test_the_frame_comes_from_public_gradients_beside_the_anchor(trainer: Trainer, frame: ProjectionFrame) -> None:
    model = trainer.torch_model
    table = token_embeddings(model)
    assert frame.norm == pytest.approx(np.linalg.norm(table, axis=1).mean())
    assert frame.anchor == pytest.approx(table[1] / np.linalg.norm(table[1]), abs=1e-6)
    assert frame.outputs.T @ frame.outputs == pytest.approx(np.eye(3), abs=1e-5)
    assert frame.outputs.T @ frame.anchor == pytest.approx(np.zeros(3), abs=1e-5)
    gradients = public_gradients(model, TEXTS, 1)
    assert captured_energy(gradients, frame.anchor, frame.outputs) > 0.8
    others = embedding_directions(model, frame.anchor, 3)
    assert captured_energy(gradients, frame.anchor, others) < 0.5
    assert captured_energy(gradients, frame.anchor, np.linalg.qr(np.eye(WIDTH))[0]) == pytest.approx(1.0)


def test_directions_are_the_singular_vectors_and_have_a_fixed_sign() -> None:
    rows = np.random.default_rng(0).normal(size=(7, 5)) * [3.0, 2.0, 1.0, 0.5, 0.1]
    found = leading_directions(rows, 2)
    assert np.abs(found @ np.linalg.svd(rows)[2][:2].T) == pytest.approx(np.eye(2), abs=1e-5)
    assert np.array_equal(leading_directions(-rows, 2), found)
    with pytest.raises(PenchantError, match="span"):
        leading_directions(rows[:1], 2)
