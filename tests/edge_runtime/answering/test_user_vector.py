"""The owner's soft token: made of their memories when it is asked for, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.answering.drafting import plain_draft
from edge_runtime.answering.user_vector import (
    LONGEST_HISTORY,
    UserVector,
    install_projection,
    installed_projection,
    owner_history,
)
from edge_runtime.device import Device
from edge_runtime.engine.embedder_file import EMBEDDER_SHA256
from edge_runtime.engine.engine import Engine
from edge_runtime.forgetting import forget, forget_everything
from edge_runtime.memory.statements import Statement
from edge_runtime.models.catalogue import find_model, sha256_of
from protocol.errors import PenchantError
from protocol.user_projection import ProjectionFrame, UserProjection
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import needs_bundled_model, open_tiny

BASE = "a" * 64
TEXTS = ("my hound is called Bo", "soup at seven with Teo", "the kiln cracked again", "I play the cello badly")


def projection(width: int, *, base: str = BASE, seed: int = 0, norm: float = 3.0) -> UserProjection:
    random, text = np.random.default_rng(seed), HashingEmbedder().dimension
    frame = ProjectionFrame(
        base_sha256=base,
        embedder_sha256=EMBEDDER_SHA256,
        temperature=0.1,
        norm=norm,
        anchor=np.eye(width, dtype=np.float32)[0],
        centre=np.zeros(text, np.float32),
        inputs=np.linalg.qr(random.normal(size=(text, 4)))[0].T.astype(np.float32),
        outputs=np.linalg.qr(random.normal(size=(width, 3)))[0].astype(np.float32),
    )
    return UserProjection(frame, random.normal(size=frame.dimension))


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device.open(tmp_path / "home", create=True, key_method="file", embedder=HashingEmbedder()) as opened:
        opened.memory.remember_many(Statement(text) for text in TEXTS)
        yield opened


def token(device: Device, request: str = "", **options: float) -> np.ndarray:
    return UserVector(device, projection(16), base_sha256=BASE, **options).soft_prefix(request)


def test_the_token_leans_to_what_the_request_is_about(device: Device) -> None:
    plain, dog, kiln = token(device), token(device, "which dog?"), token(device, "the kiln")
    assert plain.shape == (1, 16) and plain.dtype == np.float32
    assert np.linalg.norm(plain) == pytest.approx(3.0, rel=1e-5)
    assert np.abs(dog - kiln).max() > 0.05
    assert np.array_equal(token(device, "  "), plain)


def test_the_history_is_what_memory_embedded_and_only_the_owners_own(device: Device) -> None:
    held = owner_history(device)
    assert held.texts == TEXTS
    assert held.vectors == pytest.approx(HashingEmbedder().embed(TEXTS), abs=1e-6)
    before = token(device)
    device.memory.remember_many(
        [
            Statement("I hate soup", speaker="Teo"),
            Statement("a page of a book", kind="passage", document="book", position=1),
        ]
    )
    assert owner_history(device).texts == TEXTS
    assert np.array_equal(token(device), before)
    device.memory.remember("I moved to a flat by the sea")
    assert np.abs(token(device) - before).max() > 1e-3


def test_a_text_and_its_repetitions_are_left_out_of_its_own_history(device: Device) -> None:
    device.memory.remember("Soup at  SEVEN with Teo", cue="Invite Teo")
    held = owner_history(device)
    rest = held.without(TEXTS[1])
    assert len(held.vectors) == 5 and len(rest) == 3
    assert rest == pytest.approx(held.vectors[[0, 2, 3]])


def test_only_the_newest_of_a_long_history_count(device: Device) -> None:
    device.memory.remember_many(Statement(f"note {n}", said_at="2001-01-01") for n in range(LONGEST_HISTORY))
    assert len(owner_history(device).ids) == LONGEST_HISTORY
    assert owner_history(device).texts[-len(TEXTS) :] == TEXTS


def test_at_strength_0_and_without_memories_it_is_everybodys_token(device: Device, tmp_path: Path) -> None:
    with Device.open(tmp_path / "new", create=True, key_method="file", embedder=HashingEmbedder()) as newcomer:
        shared = token(newcomer, "which dog?")
    assert np.array_equal(token(device, "which dog?", strength=0.0), shared)
    assert np.abs(token(device, "which dog?") - shared).max() > 0.05


def test_what_is_forgotten_is_in_no_later_token_and_nothing_was_kept(device: Device) -> None:
    names = device.vault.blob_names("")
    before = token(device)
    added = device.memory.remember("my password hint is the blue heron")
    assert np.abs(token(device) - before).max() > 1e-3
    assert device.vault.blob_names("") == names
    forget(device, [added.id])
    assert np.array_equal(token(device), before)
    forget_everything(device)
    assert len(owner_history(device).ids) == 0
    assert np.array_equal(token(device), token(device, strength=0.0))


def test_a_release_is_kept_until_the_next_and_says_nothing_of_the_owner(device: Device) -> None:
    assert installed_projection(device) is None
    for seed in (0, 1):
        release = projection(16, seed=seed).to_bytes()
        install_projection(device, release)
        kept = installed_projection(device)
        assert kept is not None and kept.to_bytes() == release
    foreign = projection(16)
    foreign = UserProjection(replace(foreign.frame, embedder_sha256="c" * 64), foreign.theta)
    with pytest.raises(PenchantError, match="embedding model"):
        install_projection(device, foreign.to_bytes())
    with pytest.raises(PenchantError, match="fetch it again"):
        install_projection(device, b"junk")
    kept = installed_projection(device)
    assert kept is not None and kept.to_bytes() == release


def test_another_models_or_embedders_projection_is_refused(device: Device) -> None:
    good = projection(16)
    with pytest.raises(PenchantError, match="another model"):
        UserVector(device, good, base_sha256="b" * 64)
    for change in ({"embedder_sha256": "c" * 64}, {"centre": np.zeros(5, np.float32), "inputs": np.eye(4, 5)}):
        other = UserProjection(replace(good.frame, **change), good.theta)
        with pytest.raises(PenchantError, match="embedding model"):
            UserVector(device, other, base_sha256=BASE)
    with pytest.raises(PenchantError, match="strength"):
        UserVector(device, good, base_sha256=BASE, strength=-1.0)


def test_the_engine_answers_behind_the_token_and_its_file_stays_as_it_is(device: Device, tmp_path: Path) -> None:
    with open_tiny(tmp_path) as engine:
        before = sha256_of(engine.model.path)
        own = projection(engine.embeddings_width, base=engine.model.sha256)
        vector = UserVector(device, own, base_sha256=engine.model.sha256)
        prompt = engine.tokenise("tell me")
        plain = list(engine.generate(prompt, max_tokens=12))
        behind = list(engine.generate(prompt, max_tokens=12, soft_prefix=vector.soft_prefix("tell me")))
        assert behind != plain
        assert list(engine.generate(prompt, max_tokens=12)) == plain
        assert sha256_of(engine.model.path) == before == engine.model.sha256


@pytest.mark.real_model
@needs_bundled_model
def test_on_the_real_model_the_token_changes_the_logits_and_not_the_file(device: Device) -> None:
    from simulations.studies.user_vector.soft_scoring import SoftScorer

    model = find_model()
    own = projection(576, base=model.sha256, norm=3.2)
    personal, shared = (UserVector(device, own, base_sha256=model.sha256, strength=s) for s in (1.0, 0.0))
    with Engine.open(model, context_tokens=256, threads=1) as engine:
        prompt = engine.tokenise(engine.chat_prompt(plain_draft("Invite Teo to soup")))
        reply = engine.tokenise("Teo! soup at seven, bring the small dog", special=False)
    nobody = np.zeros(len(own.frame.inputs))
    with SoftScorer(model) as scorer:
        behind = scorer.score(personal.soft_prefix("Invite Teo to soup"), prompt, reply)
        at_zero = scorer.score(shared.soft_prefix("Invite Teo to soup"), prompt, reply)
        baseline = scorer.score(own.token(nobody).astype(np.float32)[None], prompt, reply)
        plain = scorer.score(None, prompt, reply)
    assert np.array_equal(at_zero, baseline)
    assert np.abs(behind - at_zero).mean() > 0.05
    assert np.abs(behind - plain).mean() > 0.05
    assert sha256_of(model.path) == model.sha256
