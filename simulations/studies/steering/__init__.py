"""From choices to generated answers: best of n and steering by taste."""
