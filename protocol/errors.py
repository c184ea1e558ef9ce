"""Errors that a person, an engineer or a peer is meant to read: one line that says what to do."""


class PenchantError(Exception):
    """Base of every user-facing error in the project. Its text never contains anything a person wrote."""


class ProtocolError(PenchantError):
    """A message, a share or a roster that the protocol does not allow. Nothing is learnt, the device sends
    nothing."""


class BudgetExceeded(PenchantError):  # noqa: N818  (the name says what happened)
    """A contribution that would spend more privacy than its owner allowed."""
