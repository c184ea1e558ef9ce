"""The fleet's state for Prometheus: the same aggregates as `fleet status`, nothing about a single device."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.deploy.status import FleetStatus


class FleetCollector(Collector):
    """Reads the status anew at every scrape."""

    def __init__(self, read: Callable[[], FleetStatus]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """The metrics of now. A value that does not exist (no noise, no sum yet) has no sample."""
        status = self._read()
        live, rounds = status.live, status.rounds
        last = next((entry for entry in reversed(rounds) if entry.survivors is not None), None)
        values: list[tuple[str, str, float | None]] = [
            ("server_running", "1 while the fleet's server runs", float(status.running)),
            ("devices_enrolled", "Members of the fleet", float(status.enrolled)),
            ("devices_online", "Members that are connected", float(live.online)),
            ("rounds_planned", "Rounds of the present run", float(status.rounds_planned)),
            ("rounds_done", "Rounds whose sum is published", float(status.rounds_done)),
            ("attempts_aborted", "Attempts given up", float(sum(entry.stage == "aborted" for entry in rounds))),
            ("stage_asked", "Devices that the present stage asks", float(live.asked)),
            ("stage_answered", "Devices that have answered in the present stage", float(live.answered)),
            ("last_cohort", "Devices asked in the last finished round", None if last is None else float(last.cohort)),
            ("last_dropped", "Of them, devices not in its sum", _number(None if last is None else last.dropped)),
            (
                "last_signal_to_noise",
                "Signal-to-noise bound of the last finished round",
                None if last is None else last.signal_to_noise,
            ),
            ("epsilon_spent", "Privacy loss of one person over everything released", status.epsilon),
            ("epsilon_budget", "The limit above which no round starts", status.epsilon_budget),
            ("received_bytes", "From devices, over the life of the fleet", float(live.bytes_up)),
            ("sent_bytes", "To devices, over the life of the fleet", float(live.bytes_down)),
            ("releases", "Releases published", float(len(status.releases))),
            ("certificate_days", "Days until the TLS certificate runs out", float(status.certificate_days)),
        ]
        for name, text, value in values:
            if value is not None:
                yield GaugeMetricFamily(f"penchant_fleet_{name}", text, value=value)


def exposition(read: Callable[[], FleetStatus]) -> bytes:
    """One scrape, in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FleetCollector(read))
    return generate_latest(registry)


def _number(value: int | None) -> float | None:
    return None if value is None else float(value)
