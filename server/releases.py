"""Releases: what the fleet's server gives to the world, as files that name their own digest.

A release is bytes under a name ("shared", "bases", ...). It is written to `<out>/releases/<name>-<first 12
hex of SHA-256>` through a temporary file, `fsync` and a rename, with the server's signed statement beside it in
`<the same>.signed`, then listed in `<out>/releases.json`. A file whose bytes no longer match the digest in the
manifest is refused when it is loaded, and a device accepts it only with the statement.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from protocol.errors import PenchantError
from protocol.fleet_trust import ReleaseStatement
from protocol.messages import SignedRelease
from server.credentials import ServerCredentials

MANIFEST_NAME, STATEMENT_SUFFIX = "releases.json", ".signed"
RELEASE_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,62}")
DIGEST_CHARACTERS_IN_FILE_NAME = 12


@dataclass(frozen=True)
class Release:
    """One published file: `path` relative to the output folder, `epsilon` the fleet's total so far."""

    name: str
    sha256: str
    path: str
    size_bytes: int
    run_id: str
    round: int
    epsilon: float
    delta: float
    base_sha256: str
    frame_sha256: str = ""
    parent_sha256: str = ""

    def signed(self, credentials: ServerCredentials, data: bytes) -> SignedRelease:
        """The release with the server's statement of it, as devices accept it."""
        statement = ReleaseStatement(
            fleet_id=credentials.fleet_id,
            name=self.name,
            sha256=self.sha256,
            run_id=self.run_id,
            round=self.round,
            epsilon=self.epsilon if math.isfinite(self.epsilon) else None,
            delta=self.delta,
            base_sha256=self.base_sha256,
            frame_sha256=self.frame_sha256,
            parent_sha256=self.parent_sha256,
        )
        return credentials.sign_release(statement, data)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either the old bytes or all the new ones, even if power fails in
    between.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:  # the rename itself must be on disk before a row in the store may point at the file
        os.fsync(folder)
    finally:
        os.close(folder)


@dataclass(frozen=True)
class ReleaseShelf:
    """The releases under one output folder."""

    out: Path

    def publish(
        self,
        name: str,
        data: bytes,
        credentials: ServerCredentials,
        *,
        run_id: str,
        round: int,
        epsilon: float,
        delta: float,
        base_sha256: str,
        frame_sha256: str = "",
        parent_sha256: str = "",
    ) -> Release:
        """Write `data`, signed, as the newest release called `name`; publishing the same bytes for the same round is a
        no-op.
        """
        if not RELEASE_NAME.fullmatch(name):
            raise PenchantError(f"release name {name!r} is not allowed: use lower-case letters, digits, '-', '_', '.'")
        sha256 = hashlib.sha256(data).hexdigest()
        relative = Path("releases") / f"{name}-{sha256[:DIGEST_CHARACTERS_IN_FILE_NAME]}"
        release = Release(
            name, sha256, relative.as_posix(), len(data), run_id, round, epsilon, delta,
            base_sha256, frame_sha256, parent_sha256,
        )  # fmt: skip
        write_atomically(self.out / relative, data)
        statement = release.signed(credentials, data).statement
        write_atomically(self.out / (release.path + STATEMENT_SUFFIX), statement)
        same_slot = (run_id, round, name)
        kept = [other for other in self.all() if (other.run_id, other.round, other.name) != same_slot]
        self._write_manifest([*kept, release])
        return release

    def all(self) -> list[Release]:
        """Every release in the manifest, oldest first."""
        manifest = self.out / MANIFEST_NAME
        if not manifest.exists():
            return []
        try:
            rows: list[Mapping[str, object]] = json.loads(manifest.read_text())["releases"]
            return [Release(**row) for row in rows]  # type: ignore[arg-type]
        except (ValueError, KeyError, TypeError) as error:
            raise PenchantError(f"{manifest} is not a release manifest: restore it from a copy") from error

    def newest(self, name: str) -> Release | None:
        """The last published release called `name`, or None."""
        found = [release for release in self.all() if release.name == name]
        return found[-1] if found else None

    def load(self, release: Release) -> bytes:
        """The release's bytes. Raises PenchantError if the file is gone or differs from its digest."""
        path = self.out / release.path
        try:
            data = path.read_bytes()
        except OSError as error:
            raise PenchantError(f"release file {path} cannot be read: restore it or publish again") from error
        if hashlib.sha256(data).hexdigest() != release.sha256:
            raise PenchantError(f"release file {path} was altered: its SHA-256 is not {release.sha256[:12]}...")
        return data

    def load_signed(self, release: Release) -> SignedRelease:
        """The release's bytes with the statement that was signed when it was published, to be handed to devices."""
        data, path = self.load(release), self.out / (release.path + STATEMENT_SUFFIX)
        try:
            return SignedRelease(statement=path.read_bytes(), data=data)
        except OSError as error:
            raise PenchantError(f"release statement {path} cannot be read: restore it or publish again") from error

    def _write_manifest(self, releases: list[Release]) -> None:
        text = json.dumps({"releases": [asdict(release) for release in releases]}, indent=1)
        write_atomically(self.out / MANIFEST_NAME, text.encode())
