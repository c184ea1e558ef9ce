"""The part of an audit that trains personal adapters: membership of texts, and extraction of secrets from them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from client.dp_sgd import PrivateSettings, noise_multiplier_for
from client.examples import Example, message_examples, prepare_input
from client.lora_layout import LoraLayout
from client.torch_model import Batch
from client.training import open_trainer
from client.training_work import TextSettings
from edge_runtime.device import Device
from protocol.accounting import PrivacyEvent
from simulations.attacks.ceilings import Ceiling
from simulations.attacks.finding import Finding, auc, mean_over
from simulations.attacks.finished_run import FinishedRun
from simulations.attacks.memorisation import (
    SECRETS,
    TextTrainer,
    blind_exposure,
    exposures,
    make_canaries,
    train_halves,
)
from simulations.audit.parts import Advance, Effort, row

MAX_TOKENS = 96
TOP_LAYERS, LORA_KINDS, LORA_RANK = 4, ("attn_q", "attn_v", "attn_output", "ffn_down"), 8
THOROUGH = TextSettings(epochs=15, batch_size=6, learning_rate=0.005)  # enough to know a text by heart
OWNERS_EPSILON = 8.0
OWNERS_TEXTS, AMONG = 20, 6  # of one person; and those among which the secrets lie
ADAPTERS = ("LoRA without privacy", f"LoRA, epsilon {OWNERS_EPSILON:g} per text")


def adapter_findings(run: FinishedRun, effort: Effort, random: np.random.Generator, advance: Advance) -> list[Finding]:
    """One person's texts and invented secrets in an ordinary LoRA, without privacy and with epsilon 8 per text."""
    trainer = open_trainer(TOP_LAYERS)
    with Device.open(run.homes[0]) as device:
        texts = message_examples(trainer.engine, device, OWNERS_TEXTS)
    canaries = make_canaries(trainer.engine, effort.canaries, random)
    places = [canary.place for canary in canaries]
    batches = [
        trainer.torch_model.prepare(prepare_input(canary.candidates), max_tokens=MAX_TOKENS) for canary in canaries
    ]
    advance(0.15)
    delta = 1.0 / (10 * len(texts))
    private = PrivateSettings(
        epsilon=OWNERS_EPSILON, delta=delta, epochs=6.0, sampling_rate=0.5, clip_norm=0.5, learning_rate=0.002
    )
    noise = noise_multiplier_for(private.epsilon, delta, private.sampling_rate, private.steps)
    allowed = Ceiling.of_events([PrivacyEvent(noise, private.sampling_rate, private.steps)])
    layout = LoraLayout.of(trainer.torch_model.module_shapes(LORA_KINDS), LORA_RANK)
    findings = []
    for start, settings in ((0.15, None), (0.55, private)):
        train = TextTrainer(trainer.torch_model, layout, MAX_TOKENS, THOROUGH, settings)
        findings += _extraction(train, texts, [canary.text for canary in canaries], batches, places, allowed)
        findings += _text_members(train, texts, effort, allowed, random, partial(_between, advance, start, 0.4))
    advance(1.0)
    return findings


def _between(advance: Advance, start: float, share: float, fraction: float) -> None:
    advance(start + share * fraction)


def _extraction(
    train: TextTrainer,
    texts: Sequence[Example],
    canaries: Sequence[Example],
    batches: Sequence[Batch],
    places: Sequence[int],
    allowed: Ceiling,
) -> list[Finding]:
    before = exposures(train, batches, places, None)
    after = exposures(train, batches, places, train([*texts[:AMONG], *canaries], 0))
    most, blind = np.log2(len(SECRETS)), blind_exposure(len(SECRETS))
    return [
        row(
            "extraction of a secret",
            ADAPTERS,
            f"exposure, bits of {most:g}",
            mean_over(after),
            blind,
            protected=train.private is not None,
            needed=(blind + most) / 2,
            ceiling=allowed.exposure(len(SECRETS)),
            note=f"{len(places)} canaries among {AMONG} texts; before training {before.mean():.1f} bits; "
            f"{int((after >= most - 1e-9).sum())} secrets preferred to all others",
        )
    ]


def _text_members(
    train: TextTrainer,
    texts: Sequence[Example],
    effort: Effort,
    allowed: Ceiling,
    random: np.random.Generator,
    advance: Advance,
) -> list[Finding]:
    split = train_halves(train, texts, effort.adapters, random, advance)
    findings = []
    for kind, needed in (("loss", 0.5), ("reference", 0.7), ("lira", 0.7)):
        scores = split.scores(kind)
        findings.append(
            row(
                f"membership of a text, {kind}",
                ADAPTERS,
                "AUC",
                auc(scores[split.inside], scores[~split.inside]),
                0.5,
                protected=train.private is not None,
                needed=needed,
                ceiling=allowed.auc,
                note=f"{effort.adapters} adapters, {len(texts)} texts",
            )
        )
    return findings
