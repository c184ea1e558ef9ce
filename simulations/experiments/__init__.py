"""From people to scored arms: homes, rounds through Flower, scoring, what a run keeps, sweeps."""
