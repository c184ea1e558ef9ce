"""The owner's token: 32 random bytes, URL-safe, kept in the encrypted file. Whoever has it may use the local API."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from typing import Final

from edge_runtime.store.vault import Vault

TOKEN_BYTES: Final = 32
TOKEN_BLOB: Final = "api/token"


def draw_token() -> str:
    """A new token: 43 characters out of A-Z a-z 0-9 - _."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def owner_token(vault: Vault) -> str:
    """The token of this device; the first call draws it."""
    with vault.transaction():
        stored = vault.get_blob(TOKEN_BLOB)
        return stored.decode() if stored else replace_token(vault)


def replace_token(vault: Vault) -> str:
    """Draws a new token; the old one opens nothing from the next start on."""
    token = draw_token()
    vault.put_blob(TOKEN_BLOB, token.encode())
    return token


def is_accepted(given: str, tokens: Iterable[str]) -> bool:
    """Whether `given` is one of `tokens`; the time tells nothing about how much of it was right."""
    # all are compared, and as bytes: compare_digest refuses text beyond ASCII
    found = [hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()) for token in tokens]
    return any(found)
