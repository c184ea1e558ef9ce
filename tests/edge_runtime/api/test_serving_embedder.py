"""The one embedding model of a serving device."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.api.serving_embedder import ServingEmbedder
from tests.edge_runtime.model_helpers import needs_bundled_embedder


@needs_bundled_embedder
@pytest.mark.real_model
def test_it_embeds_counts_what_it_reads_and_is_loaded_late() -> None:
    embedder = ServingEmbedder()
    embedder.close()  # never loaded: nothing to free
    vectors = embedder.embed(["a dog", "a hound", "the price of steel"])
    assert vectors.shape == (3, embedder.dimension) and embedder.dimension == 384
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    counts = embedder.token_counts(["a dog", "", "word " * 1000])
    assert counts == [4, 2, 256]  # with [CLS] and [SEP]; cut where the model is
    embedder.close()
    embedder.close()
    assert embedder.dimension == 384  # and opened again
    embedder.close()
