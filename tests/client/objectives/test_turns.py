"""Replies told as turns of one chat: each is a target once in every telling, behind the same words as at serving."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from client.examples import Example, prepare_input
from client.objectives import turns as module
from client.objectives.next_token import next_token
from client.objectives.turns import TOGETHER, turns
from client.torch_model import IGNORED
from edge_runtime.answering.drafting import build_draft
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.engine import Engine
from edge_runtime.memory.statements import MemoryItem
from tests.client.framed_help import tiny_model
from tests.client.objectives.objective_help import choice, item
from tests.edge_runtime.model_helpers import open_tiny

WORDS = ("one", "two", "three", "four", "five", "six", "seven")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with open_tiny(tmp_path) as opened:
        yield opened


def messages(count: int) -> list[MemoryItem]:
    return [item(n, f"kiln {WORDS[n]}", cue=f"Tell Ines about kiln {WORDS[n]}") for n in range(count)]


def replies(engine: Engine, chat: Example) -> list[str]:
    """The texts that are trained on, each up to its end of turn."""
    after = zip(chat.tokens[chat.prompt_length :], chat.weights or (1.0,) * len(chat.tokens), strict=False)
    kept = [token for token, weight in after if weight]
    assert kept[-1] == engine.end_of_turn[0]
    said = engine.detokenise(kept, special=True).split(engine.detokenise([engine.end_of_turn[0]], special=True))
    return [text.strip() for text in said if text]


def test_every_telling_has_every_text_once_in_other_company(engine: Engine) -> None:
    texts, preferred = messages(7), [choice(f"Tea {n}?", f"green {n}") for n in range(2)]
    told = turns(engine, texts, preferred, tellings=3)
    expected = Counter([text.text for text in texts] + [one.chosen for one in preferred])
    company = []
    for places in told.passes():
        chats = [replies(engine, told.examples[place]) for place in places]
        assert Counter(text for chat in chats for text in chat) == expected
        assert max(map(len, chats)) == TOGETHER and len(chats) == 4  # 3 + 3 + 1 messages, 2 answers
        company.append({frozenset(chat) for chat in chats})
        for chat in chats:  # older ones first
            places_in_time = [WORDS.index(text.split()[1]) for text in chat if text.startswith("kiln")]
            assert places_in_time == sorted(places_in_time)
    assert len(company) == 3 and company[0] != company[1] != company[2]
    assert frozenset({"kiln one", "kiln two", "kiln three"}) in company[0]
    assert turns(engine, texts, preferred, tellings=3) == told


def test_a_chat_is_the_drafting_prompt_with_the_owners_turns(engine: Engine) -> None:
    (chat,) = turns(engine, messages(3), []).examples
    system = build_draft("")[0]
    expected = [system]
    for message in messages(3):
        expected += [ChatMessage("user", message.cue), ChatMessage("assistant", message.text)]
    prompt = engine.tokenise(engine.chat_prompt(expected[:-1]))
    assert list(chat.tokens[: len(prompt)]) == prompt
    assert len(chat.weights) == len(chat.tokens) - chat.prompt_length and set(chat.weights) == {0.0, 1.0}
    alone = next_token(engine, messages(3), []).examples
    assert sum(chat.weights) == sum(len(one.tokens) - one.prompt_length for one in alone)
    assert len(chat.tokens) < sum(len(one.tokens) for one in alone)


def test_what_stands_between_the_replies_is_no_target(engine: Engine) -> None:
    (chat,) = turns(engine, messages(3), []).examples
    batch = tiny_model().prepare(prepare_input([chat]), max_tokens=len(chat.tokens))
    wanted = torch.full((len(chat.tokens),), IGNORED)
    for place, weight in enumerate(chat.weights):
        if weight:
            wanted[chat.prompt_length + place - 1] = chat.tokens[chat.prompt_length + place]
    assert torch.equal(batch.targets[0], wanted) and batch.weights is None
    losses, tokens = tiny_model().losses(batch)
    assert int(tokens[0]) == sum(chat.weights) and losses[0] > 0


def test_what_does_not_fit_or_is_read_otherwise_stands_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = messages(3)
    end = engine.detokenise([engine.end_of_turn[0]], special=True)
    texts[0] = item(0, f"kiln {end} one", cue="Say it.")  # control tokens, as words of the reply
    chats = turns(engine, texts, []).examples
    assert [len(chat.weights) > 0 for chat in chats] == [False, True]
    longest = max(len(chat.tokens) for chat in turns(engine, messages(2), []).examples)
    monkeypatch.setattr(module, "MAX_TOKENS", longest)
    assert [replies(engine, chat) for chat in turns(engine, messages(3), []).examples] == [
        ["kiln one", "kiln two"],
        ["kiln three"],
    ]
