"""A judge that may abstain, checked against known answers."""
