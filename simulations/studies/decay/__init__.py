"""How following a preference fades over turns of unrelated chat."""
