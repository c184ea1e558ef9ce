from __future__ import annotations

import dataclasses
from typing import Any

import cbor2
import numpy as np
import pytest

from protocol.errors import ProtocolError
from protocol.feature_map import FeatureMap, Source, fit_feature_map

BASE, EMBEDDER = "a" * 64, "b" * 64
WIDTHS: dict[Source, int] = {"hidden": 20, "embedding": 12, "style": 4}


def some_raw(seed: int = 0, texts: int = 300, groups: int = 6) -> tuple[np.ndarray, list[int]]:
    """Texts in groups that lie far apart; hidden numbers are large, embedding numbers small, both of low rank."""
    random = np.random.default_rng(seed)
    labels = [int(label) for label in random.integers(groups, size=texts)]
    centres = 50 * random.normal(size=(groups, 20))
    hidden = random.normal(size=(texts, 8)) @ random.normal(size=(8, 20)) * 10 + 0.1 * random.normal(size=(texts, 20))
    embedding = 0.01 * random.normal(size=(texts, 12))
    style = random.normal(size=(texts, 4)) * [1, 0.2, 10, 0.5] + 3
    return np.concatenate([hidden + centres[labels], embedding, style], axis=1).astype(np.float32), labels


def some_map(k: int = 10, **options: Any) -> FeatureMap:
    raw, groups = some_raw()
    return fit_feature_map(
        raw,
        WIDTHS,
        k,
        base_sha256=BASE,
        embedder_sha256=EMBEDDER,
        groups=groups,
        **options,
    )


def within_groups(values: np.ndarray, groups: list[int]) -> np.ndarray:
    labels = np.array(groups)
    means = {label: values[labels == label].mean(axis=0) for label in set(groups)}
    return np.asarray(values - np.stack([means[label] for label in groups]))


def test_phi_is_white_and_of_order_one_within_groups() -> None:
    raw, groups = some_raw()
    phi = some_map(floor=0.0).apply(raw)
    assert phi.shape == (300, 10)
    deviations = within_groups(phi, groups)
    assert np.mean(np.sum(deviations**2, axis=1)) == pytest.approx(1, rel=1e-4)
    covariance = deviations[:, :6].T @ deviations[:, :6] / 300  # the PCA part
    np.testing.assert_allclose(covariance, np.eye(6) * covariance[0, 0], atol=1e-4)


def test_the_map_is_affine() -> None:
    raw, _ = some_raw()
    feature_map = some_map()
    middle = feature_map.apply((raw[:1] + raw[1:2]) / 2)
    np.testing.assert_allclose(middle, feature_map.apply(raw[:2]).mean(axis=0, keepdims=True), atol=1e-5)


def test_style_numbers_stay_themselves() -> None:
    raw, groups = some_raw()
    phi = some_map().apply(raw)
    for column in range(4):
        own = within_groups(phi[:, 6 + column : 7 + column], groups)[:, 0]
        assert np.corrcoef(own, within_groups(raw[:, 32 + column : 33 + column], groups)[:, 0])[0, 1] > 0.9999
    sizes = within_groups(phi[:, 6:], groups).std(axis=0)
    np.testing.assert_allclose(sizes, sizes[0], rtol=1e-3)


def test_groups_do_not_take_the_leading_directions() -> None:
    """Six groups far apart: without labels the first five directions tell the groups apart."""
    raw, groups = some_raw()
    plain = fit_feature_map(raw, WIDTHS, 10, base_sha256=BASE, embedder_sha256=EMBEDDER).apply(raw)
    told = some_map().apply(raw)

    def share_within(phi: np.ndarray) -> float:
        return float(within_groups(phi, groups)[:, 0].var() / phi[:, 0].var())

    assert share_within(plain) < 0.1 < share_within(told)


def test_small_directions_are_not_blown_up() -> None:
    raw, groups = some_raw()

    def deviations(floor: float) -> np.ndarray:
        return np.asarray(within_groups(some_map(30, floor=floor).apply(raw), groups)[:, :26].std(axis=0))

    white, floored = deviations(0.0), deviations(0.5)
    assert white.min() > 0.98 * white.max()
    assert floored.min() < 0.1 * floored.max()
    assert np.all(np.diff(floored) < 1e-6)


def test_a_constant_number_is_left_out() -> None:
    raw, groups = some_raw()
    raw[:, [3, 25]] = 7.0
    feature_map = fit_feature_map(raw, WIDTHS, 10, base_sha256=BASE, embedder_sha256=EMBEDDER, groups=groups)
    other = raw.copy()
    other[:, [3, 25]] = 1000.0
    np.testing.assert_array_equal(feature_map.apply(raw), feature_map.apply(other))


def test_a_style_number_that_the_texts_do_not_show_is_not_blown_up() -> None:
    raw, groups = some_raw()
    raw[:, 33] = 0.0  # the first deviates by 1
    feature_map = fit_feature_map(raw, WIDTHS, 10, base_sha256=BASE, embedder_sha256=EMBEDDER, groups=groups)
    there = raw[:1].copy()
    there[0, 32:34] += 0.3
    first, unseen = (feature_map.apply(there) - feature_map.apply(raw[:1]))[0, 6:8]
    assert unseen == pytest.approx(10 * first, rel=0.05)


def test_the_bytes_give_the_map_back_and_the_digest_names_it() -> None:
    feature_map = some_map()
    again = FeatureMap.from_bytes(feature_map.to_bytes())
    raw, _ = some_raw(1)
    np.testing.assert_array_equal(again.apply(raw), feature_map.apply(raw))
    assert again.digest == feature_map.digest == some_map().digest
    other = dataclasses.replace(feature_map, base_sha256="c" * 64)
    assert len({feature_map.digest, other.digest, some_map(11).digest}) == 3
    assert (again.raw_dimension, again.dimension, again.sources) == (36, 10, ("hidden", "embedding", "style"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "penchant-feature-map-0"}, "known format"),
        ({"sources": ["style", "hidden", "embedding"]}, "in the order"),
        ({"sources": ["hidden", "smell"]}, "in the order"),
        ({"base": ""}, "base model"),
        ({"embedder": ""}, "embedder"),
        ({"mean": b"\x00" * 28}, "could not be read"),
        ({"mean": b""}, "could not be read"),
        ({"projection": np.full((36, 10), np.nan, "<f4").tobytes()}, "finite"),
        ({"projection": 3}, "could not be read"),
    ],
)
def test_bytes_that_are_no_map_are_refused(change: dict[str, object], message: str) -> None:
    body = cbor2.loads(some_map().to_bytes()) | change
    with pytest.raises(ProtocolError, match=message):
        FeatureMap.from_bytes(cbor2.dumps(body))


def test_noise_is_refused() -> None:
    for data in (b"", b"\xff" * 40, cbor2.dumps([1, 2])):
        with pytest.raises(ProtocolError, match="could not be read"):
            FeatureMap.from_bytes(data)
    with pytest.raises(ProtocolError, match="larger"):
        FeatureMap.from_bytes(bytes(16 * 1024 * 1024 + 1))


def test_a_fit_that_cannot_be_says_why() -> None:
    raw, groups = some_raw()
    names: dict[str, Any] = {"base_sha256": BASE, "embedder_sha256": EMBEDDER}
    with pytest.raises(ProtocolError, match="36 numbers"):
        fit_feature_map(raw[:, :-1], WIDTHS, 10, **names)
    with pytest.raises(ProtocolError, match="every text needs a group"):
        fit_feature_map(raw, WIDTHS, 10, groups=groups[1:], **names)
    with pytest.raises(ProtocolError, match="k asks for 36"):
        fit_feature_map(raw, WIDTHS, 40, **names)
    with pytest.raises(ProtocolError, match="span"):
        fit_feature_map(raw[:5], WIDTHS, 20, **names)
    with pytest.raises(ProtocolError, match="style alone has k = 4"):
        fit_feature_map(raw[:, 32:], {"style": 4}, 5)
    with pytest.raises(ProtocolError, match="do not differ"):
        fit_feature_map(np.ones((5, 4)), {"style": 4}, 4)
    with pytest.raises(ProtocolError, match="rows of 36"):
        some_map().apply(raw[:, :-1])
