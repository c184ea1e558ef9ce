"""How often the gate errs: simulated held-out texts, its test beside Student's t over texts.

    python -m simulations.studies.gate

Gains per token have heavy tails (Laplace, a standard deviation of ``SPREAD`` nats) around a mean of each text; texts
have 6 to 100 tokens. What differs between texts: as much as if each were no more than 30 or 100 tokens, nothing, or one
text in eight gains a lot while the others lose a little. Spread and lengths are those of villagers' adapters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray

from client.personal_gate import decide
from edge_runtime.commands.support import AsJson, one_line_errors, print_json, print_table
from simulations.study_command import as_command

SPREAD: Final = 0.45
Texts = Callable[[np.random.Generator, int], NDArray[np.float64]]  # how far the mean of each text lies from the gain
WORLDS: Final[dict[str, Texts]] = {
    "alike": lambda random, count: np.zeros(count),
    "like 100 tokens": lambda random, count: random.normal(0.0, SPREAD / math.sqrt(100), count),
    "like 30 tokens": lambda random, count: random.normal(0.0, SPREAD / math.sqrt(30), count),
    "one in eight": lambda random, count: np.where(random.random(count) < 0.125, 0.35, -0.05),
}


def accepted(world: Texts, texts: int, gain: float, *, runs: int, seed: int) -> tuple[float, float]:
    """Shares of ``runs`` that (the gate, Student's t over the texts' means) accept where the mean gain is ``gain``."""
    random, passed = np.random.default_rng(seed), np.zeros(2)
    for _ in range(runs):
        lengths = np.clip(random.lognormal(math.log(35), 0.6, texts).astype(int), 6, 100)
        means = gain + world(random, texts)
        tokens = [
            mean + SPREAD * random.laplace(0.0, math.sqrt(0.5), length)
            for mean, length in zip(means, lengths, strict=True)
        ]
        whole = [np.array([text.mean()]) for text in tokens]
        passed += [decide(rows, [np.zeros(len(row)) for row in rows]).accepted for rows in (tokens, whole)]
    return float(passed[0] / runs), float(passed[1] / runs)


def table(*, runs: int, seed: int) -> list[dict[str, Any]]:
    """A row for every world and number of texts: wrongly accepted without a gain, rightly with one of 0.05."""
    rows = []
    for name, world in WORLDS.items():
        for texts in (3, 7, 15, 30):
            row: dict[str, Any] = {"texts differ": name, "texts": texts}
            for gain, what in ((0.0, "wrongly"), (0.05, "rightly")):
                gate, student = accepted(world, texts, gain, runs=runs, seed=seed)
                row |= {f"{what}, gate": gate, f"{what}, t": student}
            rows.append(row)
    return rows


@one_line_errors
def main(
    runs: Annotated[int, typer.Option(min=10, help="Simulated gates per number.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the simulated texts.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Simulate how often the gate lets an adapter pass, with and without a gain."""
    rows = table(runs=runs, seed=seed)
    if as_json:
        print_json({"runs": runs, "seed": seed, "rows": rows})
    else:
        shown = [tuple(f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row.values()) for row in rows]
        print_table("Accepted by the gate", tuple(rows[0]), shown)


if __name__ == "__main__":
    as_command(main)
