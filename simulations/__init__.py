"""Simulated people, in-process fleets, experiments and their reports. No other room imports this one."""
