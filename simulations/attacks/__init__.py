"""Attacks on ourselves: each file is one attack as pure functions. `simulations.audit.audit` runs them on a finished
run, each beside the ceiling of what was promised."""
