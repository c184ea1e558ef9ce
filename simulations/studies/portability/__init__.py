"""What moving an adapter to an evolved base is worth."""
