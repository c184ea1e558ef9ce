"""Studies of personalisation that follow one paper each: preferences over turns, a judge, quantisation, drift."""
