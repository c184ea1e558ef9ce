"""People whose tastes and facts change."""
