"""Forward passes find the gradient, llama.cpp alone suffices, and K numbers are all that is sent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from client.torch_model import as_theta
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import describe_model
from protocol.errors import PenchantError
from protocol.frames import Vector
from protocol.seed_scalars import SeedPool
from simulations.bench.wire import empty_homes, measure
from simulations.strategies.seed_scalars import EngineTexts, SeedScalars
from tests.client.framed_help import some_texts, tiny_frame, tiny_gguf, tiny_model
from tests.simulations.strategies.strategy_help import person_texts

POOL = SeedPool(bytes(32), count=40, dimension=tiny_frame().dimension)


def strategy_of(**changes: float | int) -> SeedScalars:
    fields = {"rate": 20.0, "steps": 40, "batch_size": 100, "distance": 0.05, **changes}
    return SeedScalars(tiny_frame(), POOL, **fields)  # type: ignore[arg-type]


def gradient_at(theta: Vector) -> Vector:
    """The true gradient of person 0's loss, by torch."""
    model, frame, point = tiny_model(), tiny_frame(), as_theta(theta).requires_grad_(True)
    model.set_frame(frame)
    model.set_coordinates(frame, point)
    losses, tokens = model.losses(person_texts(0).batch)
    (losses.sum() / tokens.sum()).backward()  # type: ignore[no-untyped-call]
    model.set_frame(None)
    assert point.grad is not None
    return np.asarray(point.grad[0].double().numpy())


def test_the_measured_slopes_are_those_of_the_gradient() -> None:
    # A tiny rate, so that all slopes are measured in one place.
    strategy = strategy_of(rate=1e-6)
    moved = strategy.upload(strategy.start(), None, person_texts(0), 0).vector
    gradient = gradient_at(np.zeros(POOL.dimension))
    true = np.array([POOL.direction(index) @ gradient for index in range(POOL.count)])
    assert np.allclose(-moved / 1e-6, true, atol=0.02 * np.abs(true).max())
    clear = np.abs(true) > 0.1 * np.abs(true).max()
    assert clear.sum() > 20 and (np.sign(-moved[clear]) == np.sign(true[clear])).all()


def test_the_step_goes_down_the_true_gradient_also_from_few_texts() -> None:
    gradient = gradient_at(np.zeros(POOL.dimension))
    strategy = strategy_of(rate=1e-3, steps=10, batch_size=2)
    steps = [POOL.rebuild(strategy.upload(strategy.start(), None, person_texts(0), s).vector) for s in range(20)]
    along = np.array([-(step @ gradient) for step in steps])
    assert along.mean() > 3 * along.std() / np.sqrt(len(along)) and (along > 0).mean() > 0.8


def test_rounds_lower_the_loss_and_the_server_needs_only_scalars() -> None:
    strategy, texts = strategy_of(rate=5.0), person_texts(0)
    state, rows = strategy.start(), range(person_texts(0).count)
    before = texts.loss(strategy.adapter(state, None), rows)
    for seed in range(2):
        upload = strategy.upload(state, None, texts, seed)
        assert upload.vector.shape == (POOL.count,) == (strategy.dimension(state),)
        state = strategy.absorb(state, upload.vector)
    assert texts.loss(strategy.adapter(state, None), rows) < before - 0.02
    assert len(strategy.release(state)) < 4 * POOL.count + 200


def test_a_step_needs_two_forward_passes_along_directions_that_differ() -> None:
    class Counting:
        count, calls = 6, 0

        def loss(self, adapter: object, rows: object) -> float:
            self.calls += 1
            return 1.0 + 0.1 * self.calls

    texts, strategy = Counting(), strategy_of(steps=7)
    moved = strategy.upload(strategy.start(), None, texts, 0).vector
    assert texts.calls == 14 and np.count_nonzero(moved) == 7


def test_llama_cpp_and_torch_measure_the_same_loss() -> None:
    strategy = strategy_of()
    adapter = strategy.adapter(np.random.default_rng(0).normal(size=POOL.count), None)
    with Engine.open(describe_model(tiny_gguf()), context_tokens=256, threads=1) as engine:
        texts = EngineTexts(engine, some_texts(6, seed=100))
        assert texts.count == person_texts(0).count
        for rows in ([0, 3], [5]):
            assert texts.loss(adapter, rows) == pytest.approx(person_texts(0).loss(adapter, rows), abs=2e-3)
        assert engine.active_adapters == ()


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from pathlib import Path
import numpy as np
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import describe_model
from protocol.frames import Frame
from protocol.seed_scalars import SeedPool
from simulations.strategies.seed_scalars import EngineTexts, SeedScalars
model = describe_model(Path(sys.argv[1]))
draw = np.random.default_rng(0)
def orthonormal(length):
    return np.linalg.qr(draw.normal(size=(length, 4)))[0].astype(np.float32)
frame = Frame(model.sha256, 4, 1.0, ("blk.3.ffn_down",), (orthonormal(64),), (orthonormal(128).T,))
strategy = SeedScalars(frame, SeedPool(bytes(32), 16, 16), rate=5.0, steps=16, distance=0.2)
texts = [(draw.integers(3, 270, 20).tolist(), 4) for _ in range(4)]
with Engine.open(model, context_tokens=256, threads=1) as engine:
    data = EngineTexts(engine, texts)
    state = strategy.start()
    before = data.loss(strategy.adapter(state, None), range(4))
    for seed in range(2):
        state = strategy.absorb(state, strategy.upload(state, None, data, seed).vector)
    after = data.loss(strategy.adapter(state, None), range(4))
assert not any(name.split(".")[0] in ("torch", "transformers") and sys.modules[name] for name in list(sys.modules))
print(before, after)
"""


def test_a_device_without_torch_learns() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(tiny_gguf())], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    before, after = (float(value) for value in ran.stdout.split())
    assert after < before - 0.005


def test_a_round_of_1024_noised_scalars_stays_far_below_18_kilobytes(tmp_path: Path) -> None:
    pool = SeedPool(bytes(32), 1024, tiny_frame().dimension)
    strategy = SeedScalars(tiny_frame(), pool, rate=1.0, steps=1)
    measured = measure(strategy, *empty_homes(tmp_path, 8), tmp_path / "server")
    assert measured.values == 1024
    assert 2 * 1024 < measured.collect_up < measured.up < 18_000


def test_pools_and_steps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PenchantError, match="not of the frame's length"):
        SeedScalars(tiny_frame(), SeedPool(bytes(32), 4, 5), rate=1.0, steps=1)
    with pytest.raises(PenchantError, match="1 to 40 steps"):
        strategy_of(steps=41)


def test_a_pool_as_large_as_the_frame_gives_the_gradient_up_to_its_overlaps() -> None:
    dimension = tiny_frame().dimension
    pool = SeedPool(bytes(32), dimension, dimension)
    strategy = SeedScalars(tiny_frame(), pool, rate=1e-6, steps=dimension, batch_size=100, distance=0.05)
    step = pool.rebuild(strategy.upload(strategy.start(), None, person_texts(0), 0).vector)
    gradient = gradient_at(np.zeros(dimension))
    assert -(step @ gradient) / (np.linalg.norm(step) * np.linalg.norm(gradient)) > 0.5
