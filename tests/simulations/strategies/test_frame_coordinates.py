from __future__ import annotations

from edge_runtime.adapters.adapter_file import Factors
from simulations.strategies.frame_coordinates import FrameCoordinates
from tests.client.framed_help import tiny_frame
from tests.simulations.strategies.strategy_help import distance, mean_of, mean_product, person_texts, products


def test_the_mean_of_coordinates_is_the_mean_of_adapters() -> None:
    strategy = FrameCoordinates(tiny_frame(), rate=0.05)
    state = strategy.start()
    for seed in range(2):
        uploads = [strategy.upload(state, None, person_texts(person), seed) for person in range(3)]
        assert all(len(upload.vector) == strategy.dimension(state) == tiny_frame().dimension for upload in uploads)
        each: list[Factors] = [strategy.adapter(state + upload.vector, None) for upload in uploads]
        state = strategy.absorb(state, mean_of(uploads))
        assert distance(products(strategy.adapter(state, None)), mean_product(each)) < 1e-5


def test_sharing_lowers_everybodys_loss_and_the_release_is_small() -> None:
    strategy, people = FrameCoordinates(tiny_frame(), rate=0.02), [person_texts(person) for person in range(3)]
    state = strategy.start()
    uploads = [strategy.upload(state, None, texts, 0) for texts in people]
    after = strategy.absorb(state, mean_of(uploads))
    for texts, upload in zip(people, uploads, strict=True):
        rows = range(texts.count)
        assert texts.loss(strategy.adapter(after, None), rows) < texts.loss(strategy.adapter(state, None), rows)
        assert upload.loss > 0 and upload.own is None
    assert len(strategy.release(after)) < 4 * strategy.numbers_trained + 200
