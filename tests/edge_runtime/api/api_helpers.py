"""What the tests of the local API share: a device, a scripted engine, and a server on a free port."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from edge_runtime.api.app import create_app
from edge_runtime.api.limits import Limits
from edge_runtime.api.server import LoopbackServer, address_of, loopback_socket
from edge_runtime.api.session import Session
from edge_runtime.device import Device
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.models.catalogue import ModelFile
from edge_runtime.store.keys import KeyMethod
from protocol.errors import PenchantError
from tests.edge_runtime.memory_helpers import HashingEmbedder

GENEROUS = Limits(requests_per_second=1e6, burst=10**6, requests=64, answers=8)


class CountingHashingEmbedder(HashingEmbedder):
    """The memory tests' embedder; a token is a word."""

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


class ScriptedEngine:
    """Stands where an Engine stands: a token is a word with the space before it, the answer is `pieces`.

    With `hold` set, generation stops after the first piece until `go` is set or somebody aborts.
    """

    context_tokens = 400

    def __init__(self, pieces: Sequence[str] = ("Your dog", " is called", " Bruno.")) -> None:
        self.pieces = list(pieces)
        self.model = ModelFile("scripted", Path("scripted.gguf"), "ab" * 32, "q8_0", "llama")
        self.prompt, self.max_tokens, self.sampling = "", 0, None
        self.hold = self.closed = self.aborted = False
        self.go, self.at_hold = threading.Event(), threading.Event()
        self.active_adapters: tuple[tuple[Any, float], ...] = ()
        self.threads: set[int] = set()
        self.prompts: list[str] = []

    def tokenise(self, text: str, *, special: bool = True) -> list[str]:
        self.threads.add(threading.get_ident())
        return re.findall(r"\s*\S+|\s+", text)

    def detokenise(self, tokens: Sequence[str], *, special: bool = False) -> str:
        return "".join(tokens)

    def chat_prompt(self, messages: Sequence[ChatMessage], *, continue_assistant: bool = True) -> str:
        return "\n".join(f"<{message.role}> {message.content}" for message in messages)

    def restore_prefix(self, store: Any, tokens: Sequence[str]) -> int:
        return len(tokens)

    def generate(self, prompt: Sequence[str], *, max_tokens: int, sampling: Any, **_: Any) -> Iterator[str]:
        if len(prompt) >= self.context_tokens:
            raise PenchantError("the prompt does not fit: shorten it")
        self.prompt, self.max_tokens, self.sampling = "".join(prompt), max_tokens, sampling
        self.prompts.append(self.prompt)
        self.aborted = False
        for number, piece in enumerate(self.pieces[:max_tokens]):
            if number == 1 and self.hold:
                self.at_hold.set()
                while not self.go.wait(0.005):
                    if self.aborted:
                        raise PenchantError("the answer was stopped")
            yield piece

    def abort(self) -> None:
        self.aborted = True

    def load_adapter(self, data: bytes, *, sha256: str) -> Any:
        return type("Adapter", (), {"sha256": sha256})()

    def use_adapters(self, pairs: Sequence[tuple[Any, float]]) -> None:
        self.active_adapters = tuple(pairs)

    def unload_adapter(self, adapter: Any) -> None:
        assert all(active is not adapter for active, _ in self.active_adapters)

    def close(self) -> None:
        self.closed = True


def make_device(home: Path, *, passphrase: str | None = None) -> Path:
    """A new device in `home`."""
    method: KeyMethod = "passphrase" if passphrase else "file"
    Device.open(home, create=True, key_method=method, passphrase=passphrase, embedder=CountingHashingEmbedder()).close()
    return home


def new_session(home: Path, engine: Any = None, **options: Any) -> Session:
    """A session on `home` that is still closed."""
    scripted: Any = engine or ScriptedEngine()
    chosen: dict[str, Any] = {"limits": GENEROUS, "idle_after": 600.0, **options}
    return Session(home, open_engine=lambda: scripted, embedder=CountingHashingEmbedder(), **chosen)


@contextmanager
def opened_session(
    home: Path, engine: Any = None, *, passphrase: str | None = None, **options: Any
) -> Iterator[Session]:
    """An open session."""
    session = new_session(home, engine, **options)
    try:
        session.start_opening(passphrase).result()
        yield session
    finally:
        session.close()


def client_of(session: Session, **headers: str) -> TestClient:
    """A client in the same process, with the owner's token unless `headers` say otherwise."""
    return TestClient(
        create_app(session),
        base_url="http://127.0.0.1:8765",
        headers={"Authorization": f"Bearer {session.token}"} | headers,
        raise_server_exceptions=False,
        follow_redirects=False,
    )


@contextmanager
def serving(session: Session) -> Iterator[str]:
    """The address of a real server for `session`, in a thread of its own."""
    with loopback_socket(0) as listening:
        server = LoopbackServer(create_app(session))
        thread = threading.Thread(target=server.serve_on, args=(listening,), daemon=True)
        thread.start()
        try:
            yield address_of(listening)
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


def wait_until(condition: Any, seconds: float = 10.0) -> None:
    """Waits for something another thread does."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.005)
