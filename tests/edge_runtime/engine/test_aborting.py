"""Stopping from another thread: soon, with one clear error, and the engine goes on as if nothing had been."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator

import pytest

from edge_runtime.engine.aborting import Aborted, AbortFlag
from edge_runtime.engine.contexts import Context
from edge_runtime.engine.engine import Engine, Sampling
from tests.edge_runtime.model_helpers import open_tiny, random_tokens

ENDLESS = Sampling(temperature=2.0, top_k=0, top_p=1.0, min_p=0.0, seed=1)


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("aborting")) as opened:
        yield opened


def test_the_callback_that_llama_cpp_calls_says_what_the_flag_says() -> None:
    flag = AbortFlag()
    answers = []
    for change in (flag.clear, flag.request, flag.request, flag.clear):
        change()
        answers.append(flag.callback(flag.data))
    assert answers == [False, True, True, False]
    assert isinstance(flag.data, ctypes.c_void_p)


def test_an_answer_stops_between_two_tokens(engine: Engine) -> None:
    prompt = random_tokens(0, 20)
    expected = "".join(engine.generate(prompt, max_tokens=20))
    stream = engine.generate(prompt, max_tokens=400, sampling=ENDLESS)
    next(stream)
    engine.abort()
    with pytest.raises(Aborted, match="stopped"):
        list(stream)
    assert "".join(engine.generate(prompt, max_tokens=20)) == expected


def test_a_decode_stops_in_the_middle_and_the_cache_stays_exact(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flag is set after Python has looked at it for the last time: only llama.cpp's own callback is left."""
    prompt = random_tokens(1, 200)
    expected = "".join(engine.generate(prompt, max_tokens=10))
    engine.forget_texts()
    decode = Context._decode

    def interrupted(context: Context, batch: object) -> None:
        monkeypatch.setattr(context._flag, "check", context._flag.request)
        decode(context, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Context, "_decode", interrupted)
        with pytest.raises(Aborted):
            list(engine.generate(prompt, max_tokens=10))
        with pytest.raises(Aborted):
            engine.score(prompt[:5], [prompt[5:]])
    monkeypatch.undo()
    assert not any(sequence.entries for sequence in engine._generation_sequences()._all)
    assert "".join(engine.generate(prompt, max_tokens=10)) == expected
    assert len(engine.score(prompt[:5], [prompt[5:]])[0]) == 195


def test_another_thread_stops_an_answer(engine: Engine) -> None:
    began = threading.Event()

    def stop() -> None:
        began.wait()
        engine.abort()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Aborted):
        while True:  # an answer may end by itself before the other thread gets its turn
            for _ in engine.generate(random_tokens(2, 20), max_tokens=400, sampling=ENDLESS):
                began.set()
    thread.join()


def test_an_abort_with_nothing_running_stops_nothing_later(engine: Engine) -> None:
    engine.abort()
    assert list(engine.generate(random_tokens(3, 20), max_tokens=3)) is not None
    engine.abort()
    assert len(engine.score([5], [[6]])[0]) == 1
