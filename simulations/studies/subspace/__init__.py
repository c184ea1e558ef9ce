"""How much of a fleet's personal adapters the blind sums find."""
