from __future__ import annotations

from simulations.bench import bases
from simulations.bench.runner import BENCHMARKS


def test_the_contracts_case_is_there_with_its_peer_from_the_same_run() -> None:
    stages: list[str] = []
    cases = bases.run(on_progress=lambda stage, fraction: stages.append(stage), repeats=1)
    fit = cases["newcomer_fit"]
    assert fit.unit == "ms" and fit.peer is not None and fit.to_dict()["ratio"] == fit.ours / fit.peer
    assert cases["placement"].peer == fit.peer and cases["round"].peer is None
    assert stages and BENCHMARKS["bases"][0] == bases.__name__
