"""A device in a fleet: training, what may leave, and the answers to the server's messages."""
