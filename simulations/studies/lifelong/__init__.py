"""Ten increments over a person's year."""
