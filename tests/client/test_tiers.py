"""Shared adapter, mix of bases and personal adapter as one: against the sum of the three, in torch and in llama.cpp."""

from __future__ import annotations

import dataclasses
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from client.artefacts import Artefacts
from client.frame_builder import build_frame
from client.local_training import evaluate_coordinates
from client.lora_layout import AdapterSpace, LoraLayout
from client.personal_lora import as_tensors, installed
from client.tiers import NESTED, Footing, TieredWork, combined, fleet_tier, footing, lower_tier, on_lower_tier
from client.training_run import RunPlan, advance, new_state
from client.training_work import TextSettings, TextWork
from edge_runtime.adapters.adapter_file import AdapterMetadata, Factors, write_adapter
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import describe_model
from edge_runtime.store.vault import Vault
from protocol.bank import Bank
from protocol.coordinates import Coordinates
from protocol.errors import PenchantError
from protocol.fleet_trust import ReleaseStatement
from protocol.frames import Frame
from tests.client.framed_help import (
    BASE_SHA256,
    KINDS,
    hugging_face_name,
    plain_log_probabilities,
    plain_model,
    some_texts,
    tiny_frame,
    tiny_gguf,
    tiny_model,
)
from tests.tiny_model import HEADS, KV_HEADS

WEIGHTS = np.array([0.7, -1.2])


def wide_frame() -> Frame:
    """More kinds of maps, a higher rank and another scale, from the same public text."""
    kinds = (*KINDS, "attn_output", "ffn_up")
    return build_frame(tiny_model(), BASE_SHA256, some_texts(), kinds=kinds, rank=6, scale=0.5)


def foreign_frame() -> Frame:
    return build_frame(tiny_model(), BASE_SHA256, some_texts(4, seed=3), kinds=KINDS, rank=2)


def bank() -> Bank:
    random, d = np.random.default_rng(1), tiny_frame().dimension
    shared, directions = 0.3 * random.normal(size=d), 0.2 * random.normal(size=(2, d))
    return Bank("adapter", tiny_frame().digest, shared, directions, np.ones(2), np.zeros((0, 2)))


def personal_of(kind: str) -> tuple[AdapterSpace, Footing]:
    personal: AdapterSpace = {
        "nested": wide_frame,
        "foreign": foreign_frame,
        "lora": lambda: LoraLayout.of(tiny_model().module_shapes(KINDS), 2),
    }[kind]()
    return personal, footing(tiny_frame(), lower_tier(bank(), WEIGHTS), personal)


def changes(factors: Factors) -> dict[str, np.ndarray]:
    return {name: b.astype(np.float64) @ a for name, (a, b) in factors.items()}


@pytest.mark.parametrize("kind", ["nested", "foreign", "lora"])
def test_one_adapter_is_the_sum_of_the_three_tiers(kind: str) -> None:
    personal, stands_on = personal_of(kind)
    step = 0.2 * np.random.default_rng(5).normal(size=personal.dimension)
    factors, alpha = combined(personal, stands_on.start + step, stands_on.beside)
    assert alpha == (0.0 if stands_on.beside else personal.rank)
    assert bool(stands_on.beside) == (kind != "nested")
    # The three by themselves: shared, the mix of bases, and what the personal tier adds.
    own = changes(personal.lora_factors(stands_on.start + step))
    if kind == "nested":  # there the start is the lower tier, so what is added is the difference
        own = {name: own[name] - before for name, before in changes(personal.lora_factors(stands_on.start)).items()}
    parts = [changes(tiny_frame().lora_factors(theta)) for theta in (bank().shared, WEIGHTS @ bank().directions)] + [
        own
    ]
    weights = {name: sum(part[name] for part in parts if name in part) for name in set().union(*parts)}
    assert all(np.abs(part[name]).max() > 0.01 for part in parts for name in part)

    # A model whose weights were changed by all three, against the one adapter: in torch ...
    plain, tokens = plain_model(), some_texts()[2][0]
    untouched = torch.log_softmax(plain(torch.tensor([tokens])).logits[0].detach(), -1)
    model = tiny_model()
    with installed(model, as_tensors(factors)):
        ours = model.log_probabilities(tokens)
    for name, change in weights.items():
        plain.get_parameter(hugging_face_name(name) + ".weight").data += torch.from_numpy(change).float()
    wanted = plain_log_probabilities(plain, tokens)
    before = untouched[:-1].gather(1, torch.tensor(tokens)[1:, None])[:, 0].numpy()
    assert np.allclose(ours, wanted, atol=1e-4) and np.abs(wanted - before).max() > 0.3
    # ... and in llama.cpp, from its file.
    file = describe_model(tiny_gguf())
    metadata = AdapterMetadata(file.sha256, "")
    data = write_adapter(factors, alpha=alpha, metadata=metadata, architecture="llama", heads=HEADS, kv_heads=KV_HEADS)
    with Engine.open(file, context_tokens=128, threads=1) as engine:
        engine.use_adapters([(engine.load_adapter(data, sha256=sha256(data).hexdigest()), 1.0)])
        served = engine.score(tokens[:3], [tokens[3:]])[0]
    assert np.allclose(served, wanted[2:], atol=3e-2)


def test_nested_frames_hold_the_lower_tier_and_foreign_ones_do_not() -> None:
    lower = lower_tier(bank(), WEIGHTS)
    nested, foreign = (personal_of(kind)[1] for kind in ("nested", "foreign"))
    assert nested.kept > 0.9999 and not nested.beside and nested.start.any()
    assert foreign.kept < 0.9 < NESTED and foreign.beside and not foreign.start.any()
    nothing = footing(tiny_frame(), 0.0 * lower, foreign_frame())
    assert not nothing.beside and not nothing.start.any() and nothing.kept == 1.0
    other_base = dataclasses.replace(foreign_frame(), base_sha256="6" * 64)
    with pytest.raises(PenchantError, match="base"):
        footing(tiny_frame(), lower, other_base)


def test_a_private_start_holds_nothing_that_was_fitted_to_the_texts() -> None:
    assert np.array_equal(lower_tier(bank(), None), bank().shared)
    assert not np.allclose(lower_tier(bank(), WEIGHTS), bank().shared)
    with pytest.raises(PenchantError, match="2 bases"):
        lower_tier(bank(), np.ones(3))
    with pytest.raises(PenchantError, match="rewards"):
        lower_tier(dataclasses.replace(bank(), space="reward"), None)


@pytest.mark.parametrize("kind", ["foreign", "lora"])
def test_training_beside_a_frozen_tier_descends_the_loss_of_both(kind: str) -> None:
    """Weights move, from where the lower tier left off, and the lower tier stays as it was."""
    personal, stands_on = personal_of(kind)
    model, texts = tiny_model(), some_texts()
    inner = TextWork(model, personal, texts, [], TextSettings(1, 6), max_tokens=160)
    work = TieredWork(model, stands_on.beside, inner)
    assert (work.steps, work.learning_rate, work.patience) == (inner.steps, inner.learning_rate, inner.patience)
    with_tier, alone = (one.gradient(stands_on.start, 0, 0, 16) for one in (work, inner))
    assert not np.allclose(with_tier, alone, rtol=0.1)
    # Against a finite difference of the loss of the two tiers together.
    direction = with_tier / np.linalg.norm(with_tier)
    losses = []
    batch = model.prepare(texts)
    for step in (-0.02, 0.02):
        theta = stands_on.start + step * direction
        with on_lower_tier(model, stands_on.beside):
            losses.append(evaluate_coordinates(model, personal, batch, theta))
    assert (losses[1] - losses[0]) / 0.04 == pytest.approx(np.linalg.norm(with_tier), rel=0.05)
    state = new_state(RunPlan(work, "t", "s", 16), stands_on.start, run=1, seed=0)
    moved = advance(state, work).theta - stands_on.start
    assert np.abs(moved).max() > 1e-3 and work.check(stands_on.start, 1) is None


def test_a_device_starts_from_the_shared_adapter_that_its_fleet_sent_last(tmp_path: Path) -> None:
    frame, base = tiny_frame(), tiny_frame().base_sha256
    older, newer = (Coordinates(frame.digest, row[None]) for row in (bank().shared, bank().directions[0]))

    def stated(name: str, data: bytes, round_number: int, base_sha256: str = base) -> tuple[ReleaseStatement, bytes]:
        fields = {
            "fleet_id": "f", "name": name, "sha256": sha256(data).hexdigest(), "run_id": "r", "round": round_number,
            "epsilon": 1.0, "delta": 1e-5, "base_sha256": base_sha256,
            "frame_sha256": "" if name == "frame" else frame.digest,
        }  # fmt: skip
        return ReleaseStatement.model_validate(fields), data

    with Vault.open(tmp_path, b"k" * 32) as vault:
        assert fleet_tier(vault, base) is None
        held = Artefacts(vault)
        held.keep([stated("shared", older.to_bytes(), 0)])
        assert fleet_tier(vault, base) is None  # without its frame it means nothing
        held.keep([stated("frame", frame.to_bytes(), 0)])
        held.keep([stated("shared", newer.to_bytes(), 1), stated("bases", older.to_bytes(), 1)])
        held.keep([stated("shared", b"of another model", 2, "7" * 64)])
        found = fleet_tier(vault, base)
        assert found is not None and found[0].digest == frame.digest
        assert np.allclose(found[1], bank().directions[0], atol=1e-6)
        vault.connection.execute("UPDATE fleet_artefacts SET data = ? WHERE name = 'frame'", (b"frame",))
        with pytest.raises(PenchantError, match="altered"):
            fleet_tier(vault, base)
