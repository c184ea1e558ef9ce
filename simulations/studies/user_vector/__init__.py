"""What one soft token per person is worth."""
