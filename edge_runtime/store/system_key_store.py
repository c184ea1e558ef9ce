"""The operating system's key store (keyring): secrets of the service ``penchant`` under random account names."""

from __future__ import annotations

import contextlib
import secrets
from typing import Final

from protocol.errors import PenchantError

_SERVICE: Final = "penchant"


def works() -> bool:
    """A key store that keeps what it is given: the fail and null backends have priority 0 or less, and some
    real ones are locked."""
    try:
        import keyring

        if keyring.get_keyring().priority <= 0:  # the chain backend reports the best of its members
            return False
        probe = f"probe-{secrets.token_hex(4)}"
        keyring.set_password(_SERVICE, probe, "1")
        kept = keyring.get_password(_SERVICE, probe) == "1"
        keyring.delete_password(_SERVICE, probe)
        return kept
    except Exception:  # backends raise errors of the desktop's own libraries; any of them means: not usable
        return False


def write(value: str) -> str:
    """Stores `value` under a new account; the account's name."""
    import keyring

    account = secrets.token_hex(8)
    try:
        keyring.set_password(_SERVICE, account, value)
    except Exception:  # see works
        raise PenchantError(
            "The system key store refused the key; unlock it or protect this home with a passphrase."
        ) from None
    return account


def read(account: str) -> str:
    """The value stored under `account`."""
    import keyring

    try:
        value = keyring.get_password(_SERVICE, account)
    except Exception:  # see works
        raise PenchantError("The system key store cannot be opened; unlock it and try again.") from None
    if value is None:
        raise PenchantError(
            "The system key store no longer holds this device's key; its memory cannot be opened without it."
        )
    return str(value)


def delete(account: str) -> None:
    """Removes `account`; harmless if it is gone."""
    import keyring

    with contextlib.suppress(Exception):  # see works; a locked store keeps an entry that opens nothing any more
        keyring.delete_password(_SERVICE, account)
