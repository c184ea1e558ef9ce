"""What a frame is worth, by its size, and whether to refresh it."""
