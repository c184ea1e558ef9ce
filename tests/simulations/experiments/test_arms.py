"""The arms: which prompt and which adapter each gets, that memory is older than what is judged, and the sums."""

from __future__ import annotations

import math
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edge_runtime import device as device_module
from edge_runtime.adapters.adapter_file import read_adapter
from edge_runtime.answering.answering import build_messages
from edge_runtime.answering.drafting import build_draft
from edge_runtime.device import Device
from edge_runtime.engine.chat_template import ChatMessage
from edge_runtime.engine.engine import Engine
from edge_runtime.models.catalogue import read_model_shape
from protocol.frames import Frame
from simulations.experiments.arms import (
    ARMS,
    CONTROLS,
    DRAFT_MEMORIES,
    FACT_MEMORIES,
    NOTHING_FOUND,
    HeldOut,
    PersonAdapters,
    adapter_bytes,
    held_out_texts,
    plan_jobs,
    summarise,
)
from simulations.experiments.experiment import _texts
from simulations.experiments.homes import create_homes
from simulations.experiments.scoring import Job, JobResult, ScoredText
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.edge_runtime.model_helpers import open_tiny
from tests.simulations.people_help import invented_people

PEOPLE = invented_people(fleet=3, newcomers=1)
EVERYTHING = HeldOut(messages=2, facts=1, choices=2, max_tokens=500)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open_tiny(tmp_path_factory.mktemp("arms")) as opened:
        yield opened


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Everybody's device, with an embedder that needs no model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_module, "_default_embedder", HashingEmbedder)
        yield create_homes(PEOPLE, tmp_path_factory.mktemp("homes"), epsilon_budget=1.0, delta=1e-5)[0]


@pytest.fixture(scope="module")
def devices(homes: list[Path]) -> Iterator[list[Device]]:
    opened = [Device.open(home) for home in homes]
    yield opened
    for device in opened:
        device.close()


def prompts(engine: Engine, texts: tuple[ScoredText, ...], kind: str) -> list[str]:
    return [engine.detokenise(text.prompt, special=True) for text in texts if text.kind == kind]


def replies(engine: Engine, texts: tuple[ScoredText, ...], kind: str) -> list[str]:
    return [engine.detokenise(text.reply) for text in texts if text.kind == kind]


def chats(engine: Engine, *messages: list[ChatMessage]) -> list[str]:
    return [engine.chat_prompt(one) for one in messages]


# ---- what is asked


def test_without_memory_the_layout_is_the_same_and_the_content_nobodys(engine: Engine) -> None:
    person = PEOPLE[0]
    texts = held_out_texts(engine, person, EVERYTHING, None)
    later, fact, choices = person.test_messages, person.facts[0], person.test_choices
    assert prompts(engine, texts, "message") == chats(engine, *(build_draft(row.cue, []) for row in later))
    assert prompts(engine, texts, "fact") == chats(engine, build_messages(fact.question, [NOTHING_FOUND]))
    assert prompts(engine, texts, "choice") == chats(engine, *(build_messages(row.prompt, []) for row in choices))
    assert replies(engine, texts, "message") == [row.text for row in later]
    assert replies(engine, texts, "fact") == [fact.answer]
    assert replies(engine, texts, "choice") == [row.chosen for row in choices]
    assert all(text.reply[-1] == engine.end_of_turn[0] for text in texts)


def test_with_memory_the_prompt_holds_what_recall_finds_for_the_request(engine: Engine, devices: list[Device]) -> None:
    person, memory = PEOPLE[0], devices[0].memory
    texts = held_out_texts(engine, person, EVERYTHING, devices[0])
    found = [memory.recall(row.cue, k=DRAFT_MEMORIES) for row in person.test_messages]
    assert all(len(notes) == DRAFT_MEMORIES for notes in found)
    asked = zip(person.test_messages, found, strict=True)
    assert prompts(engine, texts, "message") == chats(engine, *(build_draft(row.cue, notes) for row, notes in asked))
    question = person.facts[0].question
    notes = memory.recall(question, k=FACT_MEMORIES)
    assert notes and prompts(engine, texts, "fact") == chats(engine, build_messages(question, notes))
    plain = held_out_texts(engine, person, EVERYTHING, None)
    for kind in ("message", "fact"):
        assert replies(engine, texts, kind) == replies(engine, plain, kind)
    assert prompts(engine, texts, "choice") == []  # scored once, without memory


def test_memory_holds_rows_from_before_the_split_only(engine: Engine, devices: list[Device]) -> None:
    for person, device in zip(PEOPLE, devices, strict=True):
        before = {row.text for row in person.train_messages}
        assert {item.text for item in device.memory.items()} == before
        shown = " ".join(
            engine.detokenise(text.prompt, special=True) for text in held_out_texts(engine, person, EVERYTHING, device)
        )
        assert any(text in shown for text in before)
        assert not any(row.text in shown for row in person.test_messages)
        assert not any(row.answer in shown for row in person.facts)


def test_limits_take_the_first_after_the_split_and_cut_the_replies(engine: Engine) -> None:
    texts = held_out_texts(engine, PEOPLE[0], HeldOut(messages=1, facts=0, choices=1, max_tokens=5), None)
    assert [text.kind for text in texts] == ["message", "choice"]
    assert list(texts[0].reply) == engine.tokenise(PEOPLE[0].test_messages[0].text, special=False)[:5]


def test_control_tokens_in_a_held_out_row_are_only_letters(engine: Engine) -> None:
    text = held_out_texts(engine, PEOPLE[0], EVERYTHING, None)[0]
    assert list(text.reply).count(engine.end_of_turn[0]) == 1


def test_the_stranger_is_never_oneself(engine: Engine, homes: list[Path]) -> None:
    trainer = SimpleNamespace(engine=engine)
    told: list[float] = []
    plain, own, stranger = _texts(trainer, PEOPLE, homes, EVERYTHING, told.append)  # type: ignore[arg-type]
    assert len(plain) == len(own) == len(stranger) == len(PEOPLE) and told[-1] == 1.0
    topics = [person.train_messages[0].text.split(": the ")[1].split()[0] for person in PEOPLE]
    for number in range(len(PEOPLE)):
        said = [turn for prompt in prompts(engine, stranger[number], "message") for turn in prompt.split("<|im_end|>")]
        answers = [turn for turn in said if "assistant\n" in turn]
        assert not any(f"the {topics[number]} again" in turn for turn in answers)
        assert replies(engine, stranger[number], "message") == replies(engine, own[number], "message")
        assert any(f"the {topics[number]} again" in prompt for prompt in prompts(engine, own[number], "message"))


# ---- which adapter


def symbolic(kind: str, count: int) -> list[tuple[ScoredText, ...]]:
    return [(ScoredText(kind, (person,), (person,)),) for person in range(count)]


def jobs_of(count: int) -> tuple[list[Job], list[PersonAdapters]]:
    adapters = [PersonAdapters(b"shared", f"personal {p}".encode(), f"bases {p}".encode()) for p in range(count)]
    return plan_jobs(symbolic("plain", count), symbolic("own", count), symbolic("stranger", count), adapters), adapters


def test_every_arm_gets_its_texts_and_its_adapter() -> None:
    count = 4
    jobs, adapters = jobs_of(count)
    found = {(job.arm, job.person): job for job in jobs}
    assert len(found) == len(jobs) == count * (len(ARMS) + len(CONTROLS))
    assert {arm for arm, _ in found} == {*ARMS, *CONTROLS}
    for person in range(count):
        own = adapters[person]
        expected = {
            "none": ("plain", None),
            "rag": ("own", None),
            "stranger_memory": ("stranger", None),
            "shared": ("plain", own.shared),
            "rag+shared": ("own", own.shared),
            "bases": ("plain", own.bases),
            "rag+bases": ("own", own.bases),
            "personal": ("plain", own.personal),
            "stranger_adapter": ("plain", adapters[(person + 1) % count].personal),
        }
        for arm, (kind, adapter) in expected.items():
            job = found[arm, person]
            assert job.texts == symbolic(kind, count)[person] and job.adapter == adapter, (arm, person)
            assert job.adapter_sha256 == (sha256(adapter).hexdigest() if adapter else "")


def test_equal_adapters_lie_side_by_side() -> None:
    jobs, _ = jobs_of(5)
    changes = sum(one.adapter_sha256 != other.adapter_sha256 for one, other in pairwise(jobs))
    assert changes == 1 + 5 + 5  # the model alone, then shared, then each of bases and personal once


def test_the_adapter_file_is_the_frames_adapter(engine: Engine) -> None:
    rng = np.random.default_rng(0)
    left = np.linalg.qr(rng.normal(size=(64, 2)))[0].astype(np.float32)
    right = np.linalg.qr(rng.normal(size=(128, 2)))[0].T.astype(np.float32)
    frame = Frame(engine.model.sha256, 2, 1.5, ("blk.3.ffn_down",), (left,), (right,))
    theta = rng.normal(size=4)
    shape = read_model_shape(engine.model.path)
    file = read_adapter(adapter_bytes(frame, theta, engine.model, shape, round=3, epsilon=2.25))
    down, up = file.factors["blk.3.ffn_down"]
    change = file.alpha / frame.rank * (up @ down)
    np.testing.assert_allclose(change, 1.5 * left @ theta.reshape(2, 2) @ right, atol=1e-5)
    assert (file.metadata.round, file.metadata.epsilon) == (3, 2.25)
    assert (file.metadata.base_sha256, file.metadata.frame_sha256) == (engine.model.sha256, frame.digest)


# ---- the sums

# Summed nats and tokens of each kind per person, chosen for easy fractions. Person 0 is in the fleet.
SUMS: dict[str, list[dict[str, tuple[float, int]]]] = {
    "none": [
        {"message": (40.0, 10), "choice": (20.0, 10)},  # 3.0
        {"message": (30.0, 10), "choice": (10.0, 10)},  # 2.0
        {"message": (60.0, 20), "choice": (20.0, 20)},  # 2.0
    ],
    "shared": [
        {"message": (30.0, 10), "choice": (15.0, 10)},  # 2.25
        {"message": (30.0, 10), "choice": (10.0, 10)},  # 2.0
        {"message": (40.0, 20), "choice": (20.0, 20)},  # 1.5
    ],
    "bases": [
        {"message": (25.0, 10), "choice": (5.0, 10)},
        {"message": (20.0, 10), "choice": (10.0, 10)},
        {"message": (30.0, 20), "choice": (10.0, 20)},
    ],
    "personal": [{"message": (20.0, 10), "choice": (10.0, 10)}] * 3,  # 1.5
    "stranger_adapter": [{"message": (35.0, 10), "choice": (10.0, 10)}] * 3,  # 2.25
    # With memory: messages only.
    "rag": [{"message": (10.0, 10)}, {"message": (20.0, 10)}, {"message": (40.0, 20)}],
    "rag+shared": [{"message": (9.0, 10)}, {"message": (18.0, 10)}, {"message": (40.0, 20)}],
    "rag+bases": [{"message": (5.0, 10)}, {"message": (10.0, 10)}, {"message": (20.0, 20)}],
    "stranger_memory": [{"message": (44.0, 10)}, {"message": (30.0, 10)}, {"message": (60.0, 20)}],
}
RESULTS = [JobResult(arm, person, sums) for arm, rows in SUMS.items() for person, sums in enumerate(rows)]
THREE = invented_people(fleet=1, newcomers=2)


def test_losses_gains_and_intervals_by_hand() -> None:
    arms, _ = summarise(RESULTS[::-1], THREE)  # results come in any order
    assert list(arms) == list(ARMS)
    none, shared = arms["none"], arms["shared"]
    assert none["losses"] == [3.0, 2.0, 2.0] and none["loss"] == pytest.approx(7 / 3)
    assert none["gain"] == 0.0 and none["gain_interval"] == [0.0, 0.0] and none["people"] == 3
    assert shared["losses"] == [2.25, 2.0, 1.5]
    # Gains 0.25, 0, 0.25: mean 1/6, standard deviation sqrt(1/48), half width t(0.975, 2) / 12 = 0.358554.
    assert shared["gain"] == pytest.approx(1 / 6)
    assert shared["gain_interval"] == [pytest.approx(1 / 6 - 0.358554, abs=1e-5), pytest.approx(0.525221, abs=1e-5)]
    # Losses: mean 23/12, standard deviation 0.381881, half width 4.302653 * 0.381881 / sqrt(3) = 0.948644.
    assert shared["interval"] == [pytest.approx(23 / 12 - 0.948644, abs=1e-5), pytest.approx(2.865311, abs=1e-5)]
    assert shared["by_kind"] == {"message": pytest.approx((3 + 3 + 2) / 3), "choice": pytest.approx((1.5 + 1 + 1) / 3)}


def test_a_newcomers_gain_is_over_newcomers_alone() -> None:
    arms, _ = summarise(RESULTS, THREE)
    newcomers = arms["shared"]["newcomers"]
    assert isinstance(newcomers, dict)
    assert newcomers["people"] == 2 and newcomers["gain"] == pytest.approx((0.0 + 0.25) / 2)
    assert newcomers["gain_interval"][0] < 0.125 < newcomers["gain_interval"][1]
    alone, _ = summarise([result for result in RESULTS if result.person < 2], invented_people(fleet=1, newcomers=1))
    assert "newcomers" not in alone["shared"]  # of one person there is no interval


def test_choices_come_from_the_arm_without_memory() -> None:
    arms, controls = summarise(RESULTS, THREE)
    assert arms["rag"]["losses"] == [(10 + 20) / 20, (20 + 10) / 20, (40 + 20) / 40]
    assert arms["rag+shared"]["losses"] == [(9 + 15) / 20, (18 + 10) / 20, (40 + 20) / 40]
    assert arms["rag+bases"]["losses"] == [(5 + 5) / 20, (10 + 10) / 20, (20 + 10) / 40]
    assert controls["stranger_memory"]["losses"] == [(44 + 20) / 20, (30 + 10) / 20, (60 + 20) / 40]
    kinds = [arms[arm]["by_kind"] for arm in ("none", "rag", "shared", "rag+shared", "bases", "rag+bases")]
    choices = [kind["choice"] for kind in kinds if isinstance(kind, dict)]
    assert choices[0] == choices[1] and choices[2] == choices[3] and choices[4] == choices[5]


def test_a_control_is_compared_with_what_it_stands_beside() -> None:
    _, controls = summarise(RESULTS, THREE)
    assert {name: control["compared_with"] for name, control in controls.items()} == CONTROLS
    memory, adapter = controls["stranger_memory"], controls["stranger_adapter"]
    assert memory["gain"] == pytest.approx(((1 - 3.2 / 3.0) + 0.0 + 0.0) / 3)
    assert adapter["gain"] == pytest.approx(((1 - 2.25 / 2.25) + (1 - 2.25 / 2.0) + (1 - 2.25 / 1.5)) / 3)


def test_of_one_person_the_interval_is_infinite() -> None:
    arms, _ = summarise([result for result in RESULTS if result.person == 0], THREE[:1])
    assert arms["shared"]["interval"] == [-math.inf, math.inf] and arms["shared"]["gain"] == pytest.approx(0.25)
