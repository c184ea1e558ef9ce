"""The graph is symmetric, regular and connected; plans keep their promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import ProtocolError
from protocol.graph import Graph, plan_graph, quorum


@settings(max_examples=60, deadline=None)
@given(size=st.integers(3, 120), degree=st.integers(2, 60), seed=st.binary(min_size=32, max_size=32))
def test_graph_is_regular_symmetric_and_without_loops(size, degree, seed):
    graph = Graph.over(size, seed=seed, degree=degree, threshold=2)
    for index in range(size):
        neighbours = graph.neighbours(index)
        assert list(neighbours) == sorted(set(neighbours)) and index not in neighbours
        assert len(neighbours) == graph.degree
        assert all(index in graph.neighbours(peer) for peer in neighbours)
    reached, frontier = {0}, [0]
    while frontier:
        fresh = set(graph.neighbours(frontier.pop())) - reached
        reached |= fresh
        frontier.extend(fresh)
    assert len(reached) == size


def test_graph_depends_on_its_seed_only():
    one, same, other = (Graph.over(100, seed=bytes([byte]) * 32, degree=10, threshold=4) for byte in (1, 1, 2))
    assert one.neighbours(0) == same.neighbours(0)
    assert [one.neighbours(i) for i in range(100)] != [other.neighbours(i) for i in range(100)]


def test_a_smaller_roster_keeps_the_ratio():
    plan = plan_graph(27)
    graph = Graph.over(18, seed=bytes(32), degree=plan.degree, threshold=plan.threshold)
    assert graph.degree == 17 and graph.threshold == plan.threshold * 17 // 26
    with pytest.raises(ProtocolError, match="too few"):
        Graph.over(2, seed=bytes(32), degree=5, threshold=3)
    with pytest.raises(ProtocolError, match="no such device"):
        graph.neighbours(18)


@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("cohort", range(9, 65))
def test_small_cohorts_survive_a_third_at_each_stage(cohort, stages):
    plan = plan_graph(cohort, vanishing_stages=stages)
    left = cohort
    for _ in range(stages):
        left -= left // 3
    assert plan.degree == cohort - 1
    assert plan.threshold <= left - 1  # everybody's secret: all others still there can rebuild it
    assert 2 <= plan.threshold <= plan.degree <= 4 * plan.threshold


@given(count=st.integers(1, 65_536), colluding=st.integers(0, 6_553))
def test_two_quorums_share_an_honest_device(count, colluding):
    assert quorum(count) <= count
    if 10 * colluding <= count:
        assert 2 * quorum(count) - count > colluding  # the fewest that two sets of this size share
    assert 2 * (quorum(count) - 1) <= 1.1 * count  # and no more devices are asked for than that takes


@pytest.mark.parametrize(("stages", "needed"), [(1, False), (2, True), (3, True)])
def test_signatures_are_needed_exactly_where_two_sets_of_neighbours_could_answer(stages, needed):
    plan = plan_graph(26, vanishing_stages=stages)
    graph = Graph.over(26, seed=bytes(32), degree=plan.degree, threshold=plan.threshold)
    assert graph.needs_confirmation == needed == (2 * plan.threshold <= 1.1 * plan.degree)


@pytest.mark.parametrize("cohort", [100, 500, 2000])
def test_large_cohorts_get_sparse_graphs_within_the_bounds(cohort):
    plan = plan_graph(cohort)
    assert plan.degree < cohort - 1 and plan.degree % 2 == 0
    assert plan.abort_probability <= 1e-6 and plan.leak_probability <= 2.0**-40
    assert plan.degree <= 4 * plan.threshold


def test_planned_dropouts_are_survived_in_simulation():
    """2 x 500 devices x random dropouts: nobody is left with fewer neighbours than the threshold."""
    plan, rng = plan_graph(500), np.random.default_rng(0)
    for trial in range(2):
        graph = Graph.over(500, seed=bytes([trial]) * 32, degree=plan.degree, threshold=plan.threshold)
        alive = set(rng.permutation(500)[: plan.survivors_needed].tolist())
        fewest = min(len(alive & set(graph.neighbours(index))) for index in range(500))
        assert fewest >= plan.threshold


def test_impossible_plans_are_refused():
    for arguments in [(2, 0.1), (10, 1.0), (10, -0.1)]:
        with pytest.raises(ProtocolError):
            plan_graph(*arguments)
