"""One person's training and its judgement, on a tiny model, against what `penchant train` does."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from client.device_profile import MINIMUM_TEXTS
from client.dp_sgd import PrivateSettings, noise_multiplier_for
from client.examples import message_examples, prepare_input
from client.learning_rate import Scheduled
from client.lora_layout import LoraLayout
from client.personal_lora import as_tensors
from client.training_work import PrivateWork
from edge_runtime.device import Device
from simulations.studies.history.recipe import Recipe, gate_verdict, personal_space, split_history, train_person
from simulations.studies.personal_fleet import Workshop, device_of, run_work
from tests.edge_runtime.memory_helpers import HashingEmbedder
from tests.simulations.studies.history_help import person_of, tiny_shop


@pytest.fixture(scope="module")
def shop() -> Iterator[Workshop]:
    with tiny_shop() as opened:
        yield opened


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    with device_of(person_of("ann", texts=14).train_messages, HashingEmbedder()) as opened:
        yield opened


def test_the_newest_quarter_is_the_gates_and_too_few_texts_are_all_trained_on(device: Device) -> None:
    texts = [row.text for row in person_of("ann", texts=14).train_messages]
    training, held_out = split_history(device)
    assert [item.text for item in training] == texts[:10] and [item.text for item in held_out] == texts[10:]
    few = person_of("ann", texts=MINIMUM_TEXTS - 1).train_messages
    with device_of(few, HashingEmbedder()) as small:
        training, held_out = split_history(small)
    assert len(training) == len(few) and not held_out


def test_every_objective_trains_and_the_same_seed_gives_the_same(shop: Workshop, device: Device) -> None:
    recipes = [Recipe(), Recipe("next_token", batch_size=4), Recipe("grounded", batch_size=4)]
    thetas = [train_person(shop, device, recipe) for recipe in recipes]
    assert all(np.isfinite(theta).all() and theta.any() for theta in thetas)
    assert np.array_equal(thetas[0], train_person(shop, device, Recipe()))
    assert not np.array_equal(thetas[0], thetas[1]) and not np.array_equal(thetas[1], thetas[2])


def test_private_training_is_dp_sgd_on_the_older_three_quarters(shop: Workshop, device: Device) -> None:
    recipe = Recipe(private_passes=2.0, sampling_rate=1.0)  # whose noise is quickly found
    theta = train_person(shop, device, recipe, epsilon=8.0)
    texts = prepare_input(message_examples(shop.engine, device, 100)[:10])
    private = PrivateSettings(8.0, 1 / 100, 2.0, recipe.sampling_rate, recipe.clip_norm, recipe.private_rate)
    noise = noise_multiplier_for(8.0, 1 / 100, private.sampling_rate, private.steps)
    work = PrivateWork(shop.torch_model, shop.frame, texts, private, noise, max_tokens=160)
    assert noise > 0 and np.array_equal(theta, run_work(Scheduled(work), np.zeros(shop.frame.dimension)))


def test_the_gate_lets_the_own_adapter_live_and_not_its_opposite(shop: Workshop, device: Device) -> None:
    theta = train_person(shop, device, Recipe())
    layout = personal_space(shop, None)
    assert isinstance(layout, LoraLayout)
    verdict = gate_verdict(shop, device, shop.adapter(theta, layout))
    assert verdict["passed"] and verdict["texts"] == 4 and verdict["gain_low"] > 0
    turned = layout.flat(as_tensors({name: (a, -b) for name, (a, b) in layout.lora_factors(theta).items()}))
    opposite = gate_verdict(shop, device, shop.adapter(turned, layout))
    assert not opposite["passed"] and opposite["gain"] < 0
