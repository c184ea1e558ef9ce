"""The commands of a fleet's operator: `penchant fleet init, invite, enrol, remove, certify, up, status, release`."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from edge_runtime.commands.support import AsJson, need, one_line_errors, print_json, print_table

Folder = Annotated[Path, typer.Argument(help="The fleet's folder.")]


@one_line_errors
def init(
    folder: Folder,
    name: Annotated[str, typer.Option("--name", help="The fleet's name.")],
    address: Annotated[str, typer.Option("--address", help="host:port at which devices reach the server.")],
    people: Annotated[int, typer.Option("--people", min=3, help="Devices that rounds wait for.")] = 8,
    rounds: Annotated[int, typer.Option("--rounds", min=1)] = 5,
    noise_multiplier: Annotated[float, typer.Option("--noise-multiplier", min=0.0)] = 1.0,
    delta: Annotated[float, typer.Option("--delta", min=1e-12, max=0.1)] = 1e-5,
    epsilon_budget: Annotated[float, typer.Option("--epsilon-budget", min=0.01)] = 8.0,
    as_json: AsJson = False,
) -> None:
    """Set up a fleet: keys, certificates, configuration, invitation. Nothing that exists is overwritten."""
    need("flwr")
    from server.deploy.init import FleetPlanned, init_fleet

    planned = FleetPlanned(name, address, people, rounds, noise_multiplier, delta, epsilon_budget)
    invitation = init_fleet(folder, planned)
    path = folder / "invitation.json"
    if as_json:
        print_json({"fleet": invitation.trust.fleet_id, "invitation": str(path), "fingerprint": invitation.fingerprint})
        return
    typer.echo(
        f"Fleet {invitation.trust.fleet_id} in {folder}.\n"
        f"1. Choose the frame and the noise in {folder / 'fleet.toml'} (penchant fleet plan helps).\n"
        f"2. Give {path} to the people; its fingerprint is {invitation.fingerprint}.\n"
        f"3. They type penchant join {path.name} and send you a request: penchant fleet enrol {folder} REQUEST...\n"
        f"4. penchant fleet up {folder}\n"
        f"Keep a copy of {folder / 'keys'} and take authority.key to another machine: only enrol and certify want it."
    )


@one_line_errors
def invite(folder: Folder, as_json: AsJson = False) -> None:
    """Show the fleet's invitation and the fingerprint to compare."""
    from protocol.invitation import FleetInvitation
    from server.deploy.folder import load

    place, config = load(folder)
    invitation = FleetInvitation.from_bytes(place.read(place.invitation))
    if as_json:
        print_json({"fleet": config.name, "file": str(place.invitation), "fingerprint": invitation.fingerprint})
        return
    typer.echo(f"{place.invitation}\nfingerprint {invitation.fingerprint}\nserver {invitation.address}")


@one_line_errors
def enrol(
    folder: Folder,
    requests: Annotated[list[Path], typer.Argument(help="Join requests that devices wrote.")],
    as_json: AsJson = False,
) -> None:
    """Enrol devices: a new list of members, signed with the authority's key. A running server lets them connect; they
    take part from its next start.
    """
    need("flwr")
    from server.deploy.enrolment import enrol_requests, read_members
    from server.deploy.folder import load

    place, config = load(folder)
    fresh = enrol_requests(place, config, requests)
    members = read_members(place)
    if as_json:
        print_json({"enrolled": len(fresh), "members": len(members.members), "serial": members.serial})
        return
    typer.echo(f"Enrolled {len(fresh)}; {len(members.members)} members (list {members.serial}).")


@one_line_errors
def remove(
    folder: Folder,
    members: Annotated[list[str], typer.Argument(help="First 8 or more digits of each identity.")],
    as_json: AsJson = False,
) -> None:
    """Take devices off the list of members, for example lost ones."""
    need("flwr")
    from server.deploy.enrolment import read_members, remove_members
    from server.deploy.folder import load

    place, config = load(folder)
    gone = remove_members(place, config, members)
    left = read_members(place)
    if as_json:
        print_json({"removed": len(gone), "members": len(left.members), "serial": left.serial})
        return
    typer.echo(f"Removed {len(gone)}; {len(left.members)} members (list {left.serial}).")


@one_line_errors
def certify(
    folder: Folder,
    server_key: Annotated[bool, typer.Option("--server-key", help="Also replace the key that signs tasks.")] = False,
    as_json: AsJson = False,
) -> None:
    """Renew the TLS certificate, and with --server-key the server's signing key; devices follow by themselves."""
    need("flwr")
    from server.deploy.certificates import days_left
    from server.deploy.folder import load
    from server.deploy.rotation import renew_server_key, renew_tls

    place, config = load(folder)
    renew_tls(place, config)
    if server_key:
        renew_server_key(place, config)
    days = days_left(place.read(place.key("tls.pem")))
    if as_json:
        print_json({"certificate_days": days, "server_key": server_key})
        return
    typer.echo(f"Renewed; the TLS certificate holds for {days} days. Restart the server to use it.")


@one_line_errors
def up(
    folder: Folder,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on.", show_default="fleet.toml's, loopback")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Serve the fleet and run its rounds; after a stop or a crash, the same command goes on where it was."""
    need("flwr", "dp_accounting")
    from server.deploy.up import up as serve

    signal.signal(signal.SIGTERM, _interrupted)
    result = serve(folder, lambda line: typer.echo(line, err=as_json), host=host)
    if as_json:
        print_json(
            {
                "run": result.run_id,
                "rounds": len(result.outcomes),
                "aborted": len(result.aborted),
                "releases": len(result.releases),
                "epsilon": _finite(result.epsilon),
                "delta": result.delta,
                "stopped": result.stopped,
            }
        )
        return
    epsilon = f"epsilon {result.epsilon:.3f} at delta {result.delta:g}" if _finite(result.epsilon) else "no guarantee"
    typer.echo(f"Run {result.run_id}: {len(result.outcomes)} rounds, {epsilon}. {result.stopped}".strip())


@one_line_errors
def status(folder: Folder, as_json: AsJson = False) -> None:
    """How the fleet stands: rounds, cohort, dropouts, signal-to-noise, budget, bytes, releases. Aggregates only."""
    need("flwr", "dp_accounting")
    from server.deploy.status import fleet_status

    now = fleet_status(folder)
    if as_json:
        print_json(now.to_dict())
        return
    live = now.live
    running = "running" if now.running else "not running"
    spent = "no guarantee" if now.epsilon is None else f"epsilon {now.epsilon:.3f}"
    limit = "" if now.epsilon_budget is None else f" of {now.epsilon_budget:g}"
    typer.echo(
        f"{now.fleet}: {running}, {live.online if now.running else 0} of {now.enrolled} devices connected\n"
        f"run {now.run_id}: {now.rounds_done} of {now.rounds_planned} rounds, {spent}{limit} at delta {now.delta:g}\n"
        f"received {live.bytes_up:,} bytes, sent {live.bytes_down:,}; TLS certificate: {now.certificate_days} days"
    )
    print_table(
        "Rounds",
        ("round", "attempt", "sums", "stage", "cohort", "dropped", "signal-to-noise", "remark"),
        [
            (
                entry.round + 1,
                entry.attempt + 1,
                entry.kind,
                entry.stage,
                entry.cohort,
                "" if entry.dropped is None else entry.dropped,
                "" if entry.signal_to_noise is None else f"{entry.signal_to_noise:.2f}",
                entry.reason,
            )
            for entry in now.rounds
        ],
    )


@one_line_errors
def release(
    folder: Folder,
    publish: Annotated[Path | None, typer.Option("--publish", help="Copy the newest releases, signed, here.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what the fleet has released; with --publish, write the newest of each name with its signed statement."""
    need("flwr", "dp_accounting")
    from server.deploy.folder import load
    from server.deploy.publishing import publish_newest
    from server.deploy.status import release_dict
    from server.releases import ReleaseShelf

    place, _ = load(folder)
    releases = ReleaseShelf(place.out).all()
    written = publish_newest(place, publish) if publish is not None else []
    if as_json:
        print_json(
            {"releases": [release_dict(entry) for entry in releases], "published": [str(path) for path in written]}
        )
        return
    print_table(
        "Releases",
        ("name", "run", "round", "bytes", "epsilon", "sha256"),
        [
            (entry.name, entry.run_id, entry.round + 1, f"{entry.size_bytes:,}", _epsilon(entry.epsilon), entry.sha256)
            for entry in releases
        ],
    )
    for path in written:
        typer.echo(f"Wrote {path}")


def _epsilon(value: float) -> str:
    return "no guarantee" if _finite(value) is None else f"{value:.3f}"


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
