"""`fleet release --publish`: the newest release of each name as files that a device can check without the fleet."""

from __future__ import annotations

from pathlib import Path

from protocol.errors import PenchantError
from server.deploy.folder import FleetFolder
from server.releases import STATEMENT_SUFFIX, ReleaseShelf, write_atomically


def publish_newest(folder: FleetFolder, target: Path) -> list[Path]:
    """Write `<name>` and its signed statement for every name that was ever released; checked against their digests."""
    shelf = ReleaseShelf(folder.out)
    newest = {release.name: release for release in shelf.all()}
    if not newest:
        raise PenchantError("nothing has been released yet")
    written = []
    for name, release in sorted(newest.items()):
        signed = shelf.load_signed(release)
        for path, data in ((target / name, signed.data), (target / (name + STATEMENT_SUFFIX), signed.statement)):
            write_atomically(path, data)
            written.append(path)
    return written
