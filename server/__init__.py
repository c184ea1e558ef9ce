"""The fleet's server: rounds, sums, releases, ledger. It never sees a person's text or un-summed update."""
