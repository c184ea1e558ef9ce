"""Taste: the fleet's bank on this device, the owner's private weights on it, and what they say of an answer.

    reward(prompt, answer) = (shared + strength * w @ directions) . phi(prompt, answer)

The bank and its feature map are public and installed together (`TasteRelease`). The weights w are fitted from the
owner's choices (`device.feedback`) when they are first needed after a choice was added or taken back, and never leave
the device; so are the attribute weights that steering uses, for which no bank is needed. All that is fitted lies below
LEARNT_PREFIX: every forget drops it. Whether taste is used at all, and how strongly, is the owner's setting and stays.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.answering.attributes import ATTRIBUTES, bayes_weights, length_slopes, log_length, log_ratios
from edge_runtime.reward.style import STYLE_NAMES, style_features
from edge_runtime.store.vault import LEARNT_PREFIX
from protocol.errors import PenchantError
from protocol.feature_map import FeatureMap
from protocol.reward_model import Choices, fit_weights
from protocol.taste_release import TasteRelease

if TYPE_CHECKING:
    from edge_runtime.device import Device
    from edge_runtime.engine.engine import Engine
    from edge_runtime.feedback.preferences import Preference

MOST_CHOICES: Final = 100  # the latest ones; older ones say what the owner used to like
LARGEST_STRENGTH: Final = 4.0
_RELEASE_BLOB: Final = "taste/release"
_SETTINGS_BLOB: Final = "taste/settings"
_WEIGHTS_BLOB: Final = f"{LEARNT_PREFIX}taste/weights"
_RATIOS_BLOB: Final = f"{LEARNT_PREFIX}taste/attributes"
_FEWEST_EXPLAINED: Final = 12  # choices
_CHANCE: Final = 3.07  # standard errors that 19 times in 20 none of 23 style features reaches by chance
_EXPLANATIONS: Final = 4

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TasteSettings:
    """`on`: whether answers may follow the owner's taste. `strength`: 0 is the fleet's shared taste, 1 the owner's,
    more exaggerates it."""

    on: bool = True
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.on, bool) or not 0.0 <= self.strength <= LARGEST_STRENGTH:
            raise PenchantError(f"Taste is on or off, and its strength lies between 0 and {LARGEST_STRENGTH:g}.")


@dataclass(frozen=True)
class Explanation:
    """A countable style that the owner's direction goes with: its name (`style.STYLE_NAMES`) and the correlation, over
    the owner's own choices, of the two differences."""

    style: str
    correlation: float


@dataclass(frozen=True)
class Fit:
    """What was learnt from `choices` choices: `weights` (K,), `slopes` (k,) by which phi rises with log length in them,
    and what the direction goes with. `made_from` names the bank and the choices."""

    made_from: str
    choices: int
    weights: tuple[float, ...]
    slopes: tuple[float, ...]
    explanations: tuple[Explanation, ...]


class Features(Protocol):
    """As `RewardFeatures`."""

    def check(self, feature_map: FeatureMap) -> None: ...

    def of(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]: ...


class Taste:
    """The taste of a device's owner. `engine` may be missing where only settings are looked at."""

    def __init__(self, device: Device, engine: Engine | None = None, *, features: Features | None = None) -> None:
        self._device, self._engine = device, engine
        self._given = features

    # ---- settings and release

    @property
    def settings(self) -> TasteSettings:
        """What the owner chose; the defaults if nothing was."""
        stored = self._device.vault.get_blob(_SETTINGS_BLOB)
        return TasteSettings(**json.loads(stored)) if stored else TasteSettings()

    def change(self, *, on: bool | None = None, strength: float | None = None) -> TasteSettings:
        """Sets what is given; PenchantError for a strength out of range."""
        changes: dict[str, Any] = {"on": on, "strength": strength}
        changed = replace(self.settings, **{name: value for name, value in changes.items() if value is not None})
        self._device.vault.put_blob(_SETTINGS_BLOB, json.dumps(asdict(changed)).encode())
        return changed

    def install(self, release: TasteRelease) -> None:
        """Keeps a release in place of an earlier one; the weights are fitted anew when they are next needed."""
        self._device.vault.put_blob(_RELEASE_BLOB, release.to_bytes())

    @property
    def release(self) -> TasteRelease | None:
        """What is installed."""
        stored = self._device.vault.get_blob(_RELEASE_BLOB)
        return TasteRelease.from_bytes(stored) if stored else None

    # ---- what is learnt

    def fitted(self) -> Fit | None:
        """What was learnt, if it is still of the installed bank and of the choices that there are now."""
        stored = self._device.vault.get_blob(_WEIGHTS_BLOB)
        release = self.release
        if stored is None or release is None:
            return None
        values = json.loads(stored)
        fit = Fit(
            values["made_from"],
            values["choices"],
            tuple(values["weights"]),
            tuple(values["slopes"]),
            tuple(Explanation(**one) for one in values["explanations"]),
        )
        return fit if fit.made_from == _made_from(release, self._choices()) else None

    def fit(self) -> Fit:
        """The same, learnt now if need be. PenchantError without a release, or if it was made for another model."""
        if (fit := self.fitted()) is not None:
            return fit
        release, choices = self._required(), self._choices()
        pairs = [(choice.prompt, text) for choice in choices for text in (choice.chosen, choice.rejected)]
        phi = self._phi(release, pairs, keep=True)
        differences = phi[::2] - phi[1::2]
        weights = fit_weights(Choices(differences, np.ones(len(choices))), release.bank).weights
        fit = Fit(
            _made_from(release, choices),
            len(choices),
            tuple(map(float, weights)),
            tuple(map(float, length_slopes(differences, _longer(choices)))),
            explained(differences @ (weights @ release.bank.directions), _style_differences(choices)),
        )
        self._device.vault.put_blob(_WEIGHTS_BLOB, json.dumps(asdict(fit)).encode())
        return fit

    def attribute_weights(self) -> Array:
        """(ATTRIBUTES,) what `steering` steers by: zeros without choices. The model reads each choice once, some
        seconds on one core; what it said is kept."""
        choices = self._choices()
        told = [self._ratio_difference(choice) for choice in choices]
        differences = np.array(told).reshape(len(choices), len(ATTRIBUTES))
        return bayes_weights(differences, _longer(choices))

    @property
    def due(self) -> bool:
        """Whether there are choices that nothing was learnt from yet, and the owner lets taste be used."""
        if not self.settings.on:
            return False
        kept = self._kept_ratios()
        return (self.release is not None and self.fitted() is None) or any(
            self._ratio_key(choice) not in kept for choice in self._choices()
        )

    def learn(self) -> None:
        """Learns all that an answer will need, so that none has to wait for it."""
        if self.release is not None:
            self.fit()
        self.attribute_weights()

    def explain(self) -> tuple[Explanation, ...]:
        """Which styles the owner's direction goes with, the clearest first; empty where the choices do not say. These
        are correlations: a style may only go along with what the owner likes."""
        return self.fit().explanations

    # ---- what it says

    def rewards(self, prompt: str, answers: Sequence[str]) -> Array:
        """(n,) the owner's rewards of answers to one prompt, at the strength that is set."""
        release = self._required()
        return self._phi(release, [(prompt, answer) for answer in answers], keep=False) @ self._direction(release)

    def length_slope(self) -> float:
        """What the reward gains per unit of log length in the owner's own choices."""
        return float(np.array(self.fit().slopes) @ self._direction(self._required()))

    def token_head(self) -> NDArray[np.float32]:
        """(n_embd,) what the owner's direction reads off a hidden state (`answering/guiding.py`)."""
        from edge_runtime.answering.guiding import token_head  # llama.cpp: not for who only looks at settings

        release = self._required()
        if self._engine is None or release.feature_map.base_sha256 not in ("", self._engine.model.sha256):
            raise PenchantError("The installed taste was made for another model: use that model.")
        return token_head(release.feature_map, self._direction(release), self._engine.embeddings_width)

    # ---- inside

    def _direction(self, release: TasteRelease) -> Array:
        return release.bank.mix(np.array(self.fit().weights), self.settings.strength)

    def _required(self) -> TasteRelease:
        release = self.release
        if release is None:
            raise PenchantError("No taste is installed on this device: `penchant taste install FILE` does it.")
        return release

    def _choices(self) -> list[Preference]:
        return self._device.feedback.preferences()[-MOST_CHOICES:]

    def _phi(self, release: TasteRelease, pairs: Sequence[tuple[str, str]], *, keep: bool) -> Array:
        """(n, k); `keep` the raw features on the device."""
        features = self._given or self._features(release, keep=keep)
        features.check(release.feature_map)
        if not pairs:
            return np.zeros((0, release.feature_map.dimension))
        return release.feature_map.apply(features.of(pairs))

    def _features(self, release: TasteRelease, *, keep: bool) -> Features:
        from edge_runtime.reward.features import RewardFeatures  # llama.cpp: not for who only looks at settings

        vault = self._device.vault if keep else None
        return RewardFeatures(self._engine, self._device.embedder, release.feature_map.sources, vault=vault)

    def _ratio_difference(self, choice: Preference) -> list[float]:
        """r of the chosen answer minus r of the other, per attribute, as the model in use says."""
        if self._engine is None:
            raise PenchantError("Steering needs an open model.")
        key, kept = self._ratio_key(choice), self._kept_ratios()
        if key not in kept:
            chosen, rejected = log_ratios(self._engine, choice.prompt, [choice.chosen, choice.rejected])
            # another program may have added some meanwhile; the oldest beyond what is ever asked for go
            with self._device.vault.transaction():
                kept = self._kept_ratios() | {key: [float(value) for value in chosen - rejected]}
                latest = dict(list(kept.items())[-MOST_CHOICES:])
                self._device.vault.put_blob(_RATIOS_BLOB, json.dumps(latest).encode())
        return kept[key]

    def _ratio_key(self, choice: Preference) -> str:
        model = self._engine.model.sha256 if self._engine is not None else ""
        sentences = [one.sentence for one in ATTRIBUTES]
        return _digest([model, *sentences, choice.prompt, choice.chosen, choice.rejected])

    def _kept_ratios(self) -> dict[str, list[float]]:
        stored = self._device.vault.get_blob(_RATIOS_BLOB)
        return dict(json.loads(stored)) if stored else {}


def explained(rewards: Array, styles: Array) -> tuple[Explanation, ...]:
    """The styles with which `rewards` (m,) go, both as differences within the m choices (`styles` (m, STYLE_NAMES)).

    Correlations through zero, since which answer of a pair comes first says nothing; only those that chance would not
    give among as many, with fewer than twelve choices none.
    """
    if len(rewards) < _FEWEST_EXPLAINED:
        return ()
    sizes = np.linalg.norm(styles, axis=0) * np.linalg.norm(rewards)
    correlations = np.divide(rewards @ styles, sizes, out=np.zeros(styles.shape[1]), where=sizes > 0)
    needed = math.tanh(_CHANCE / math.sqrt(len(rewards) - 3))
    order = np.argsort(-np.abs(correlations), kind="stable")[:_EXPLANATIONS]
    return tuple(
        Explanation(STYLE_NAMES[one], round(float(correlations[one]), 3))
        for one in order
        if abs(correlations[one]) >= needed
    )


def _longer(choices: Sequence[Preference]) -> Array:
    """(m,) log length of the chosen answer minus that of the other."""
    return np.array([log_length(choice.chosen) - log_length(choice.rejected) for choice in choices], dtype=float)


def _style_differences(choices: Sequence[Preference]) -> Array:
    """(m, STYLE_NAMES)."""
    rows = [style_features(one.prompt, one.chosen) - style_features(one.prompt, one.rejected) for one in choices]
    return np.array(rows, dtype=np.float64).reshape(len(choices), len(STYLE_NAMES))


def _made_from(release: TasteRelease, choices: Sequence[Preference]) -> str:
    texts = [text for choice in choices for text in (choice.prompt, choice.chosen, choice.rejected)]
    return _digest([release.bank.digest, release.feature_map.digest, *texts])


def _digest(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()
