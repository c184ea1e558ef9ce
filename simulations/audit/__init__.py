"""`penchant audit`: the attacks of `simulations.attacks` on a finished run, beside what was promised."""
