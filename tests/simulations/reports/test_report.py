"""The report's figures, verdicts, escaping and warnings, on invented runs."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from protocol.errors import PenchantError
from simulations.reports.report import show_table, write_report
from simulations.reports.schema import PICTURES, parse_report
from tests.simulations.reports.report_fixture import INJECTION, invented_report, smallest_report

pytest.importorskip("matplotlib")
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
NO_NOISE = "NO NOISE: this run protects nobody"


class PageReader(HTMLParser):
    """Collects tags, every attribute that can fetch something, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.fetched: list[str] = []
        self.handlers: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "href", "data", "action", "poster", "background"):
                self.fetched.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self.text += data.replace("\N{NO-BREAK SPACE}", " ")


def read_page(out: Path) -> PageReader:
    page = PageReader()
    page.feed((out / "report.html").read_text(encoding="utf-8"))
    return page


def table_text(report: dict[str, Any], *, width: int = 110, color: bool = False, out: Path | None = None) -> str:
    target = StringIO()
    console = Console(file=target, width=width, force_terminal=color, color_system="standard" if color else None)
    show_table(report, console, out=out)
    return target.getvalue()


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("noisy")
    write_report(invented_report(), out)
    return out


@pytest.fixture(scope="module")
def unprotected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unprotected")
    write_report(invented_report(noise=False), out)
    return out


def test_everything_is_written_and_nothing_else(noisy: Path) -> None:
    expected = {"report.json", "report.html", "report.md", *(f"{name}.png" for name in PICTURES)}
    assert {path.name for path in noisy.iterdir()} == expected
    for name in PICTURES:
        assert (noisy / f"{name}.png").read_bytes().startswith(PNG_MAGIC)
    assert json.loads((noisy / "report.json").read_text(encoding="utf-8")) == invented_report()


def test_page_is_self_contained_and_escapes_what_models_wrote(noisy: Path) -> None:
    source = (noisy / "report.html").read_text(encoding="utf-8")
    page = read_page(noisy)
    assert "://" not in source  # no address of any kind
    assert page.fetched and all(address.startswith("data:image/png;base64,") for address in page.fetched)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "form", "base"}
    assert not page.handlers
    assert "url(" not in source and "@import" not in source
    assert INJECTION in page.text  # shown as text, in full
    assert "Priya <b>" in page.text
    assert "prefers-color-scheme: dark" in source and 'name="viewport"' in source


def test_escaping_holds_in_every_text_of_the_report(tmp_path: Path) -> None:
    report = invented_report()
    report.update(title=INJECTION, created=INJECTION, command=INJECTION, versions={INJECTION: INJECTION})
    report["model"]["name"] = report["privacy"]["mechanism"] = INJECTION
    report["round_log"][0]["kind"] = INJECTION
    report["arms"][INJECTION] = report["arms"]["rag"]
    report["controls"][INJECTION] = report["controls"]["stranger_memory"]
    report["bases"]["weights"]["$\\frac{$"] = [0.1]
    write_report(report, tmp_path)
    page = read_page(tmp_path)
    assert "script" not in page.tags and not page.handlers
    assert all(address.startswith("data:") for address in page.fetched)


def test_markdown_has_the_same_figures_and_opens_no_tag(noisy: Path, unprotected: Path, tmp_path: Path) -> None:
    text = (noisy / "report.md").read_text(encoding="utf-8")
    for figure in ("rag+bases lowers the loss by 10.6 %", "| rag+bases | 3.231 | 3.121 to 3.351 |", "9.87", "7.4 kB",
                   "ab" * 32, "`penchant demo --people 24 --rounds 7 --out demo`"):  # fmt: skip
        assert figure in text, figure
    assert all(f"({name}.png)" in text for name in PICTURES)
    assert NO_NOISE not in text and NO_NOISE in (unprotected / "report.md").read_text(encoding="utf-8")
    report = invented_report()
    report.update(title=INJECTION, command=f"a | {INJECTION}")
    report["arms"][INJECTION] = report["arms"]["rag"]
    write_report(report, tmp_path)
    hostile = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<" not in hostile and all(line.replace("\\|", "").count("|") in (0, 3, 6) for line in hostile.splitlines())


def test_page_shows_the_figures(noisy: Path) -> None:
    text = " ".join(read_page(noisy).text.split())
    for figure in (
        "rag+bases lowers the loss by 10.6 % (95 % interval 9.3 to 12.0)",
        "3.231", "3.121 to 3.351", "9.87", "0.001", "10.4", "7.4 kB", "limit 10.0 kB",
        "1 of 4 singular values stands above the noise floor of 0.305; the other 3 cannot be told",
        "same settings in a fleet of 1,000: signal-to-noise 19.6, epsilon 9.87, noise multiplier 2.29.",
        "ab" * 32, "cd" * 32, "torch 2.13.0", "penchant demo --people 24 --rounds 7 --out demo",
        "15 January 2026, 10:20 UTC",
    ):  # fmt: skip
        assert figure in text, figure
    assert NO_NOISE not in text


def test_run_without_noise_is_marked_everywhere(noisy: Path, unprotected: Path) -> None:
    page = read_page(unprotected)
    source = (unprotected / "report.html").read_text(encoding="utf-8")
    assert NO_NOISE in page.text
    body = source.split("<body>")[1]
    assert body.index('class="alarm"') < body.index("<main>")  # at the very top
    assert 'class="alarm"' not in (noisy / "report.html").read_text(encoding="utf-8")
    assert "signal-to-noise 19.6" not in page.text  # without noise nothing is promised to any fleet
    assert 'class="red">infinite' in source
    colored = table_text(invented_report(noise=False), color=True)
    assert NO_NOISE in table_text(invented_report(noise=False)).split("rag+bases")[0]
    assert "\x1b[1;37;41m" in colored  # bold white on red
    assert "\x1b[1;37;41m" not in table_text(invented_report(), color=True)


def test_every_picture_of_a_run_without_noise_carries_red(noisy: Path, unprotected: Path) -> None:
    import matplotlib.image

    def reddish(path: Path) -> int:
        """Pixels in the alarm's red, in the top tenth of the picture where the sentence stands."""
        pixels = matplotlib.image.imread(path)[..., :3]
        top = pixels[: max(40, len(pixels) // 10)]
        return int(((abs(top - np.array([0xC4, 0x16, 0x1C]) / 255)) < 0.02).all(axis=-1).sum())

    for name in PICTURES:
        assert reddish(unprotected / f"{name}.png") > 300, name
        assert reddish(noisy / f"{name}.png") == 0, name


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"noise_multiplier": 0.0}, NO_NOISE),
        ({"noise": False}, NO_NOISE),
        ({"epsilon": None}, "NO BOUND: epsilon is not finite, this run protects nobody"),
        ({"epsilon": float("inf")}, "NO BOUND: epsilon is not finite, this run protects nobody"),
        ({}, ""),
    ],
)
def test_warning_goes_by_what_was_done(changes: dict[str, Any], sentence: str) -> None:
    report = invented_report()
    report["privacy"].update(changes)
    assert parse_report(report).privacy.warning == sentence
    assert ("9.87 at delta" in table_text(report)) == (not sentence)


def test_table_shows_the_figures() -> None:
    rows = [line.split() for line in table_text(invented_report(), width=130, out=Path("demo")).splitlines()]
    lines = [" ".join(row) for row in rows]
    for expected in (
        "none 3.612 3.502 to 3.732",
        "rag+bases 3.231 3.121 to 3.351 10.6 % 9.3 to 12.0",
        "bases 3.594 3.484 to 3.714 0.5 % −0.2 to 1.2",
        "a stranger's memory 3.655 3.545 to 3.775 −1.2 % −1.6 to −0.8",
        "a stranger's adapter (against personal) 3.602 3.492 to 3.722 −1.2 % −2.7 to 0.3",
        "privacy epsilon 9.87 at delta 0.001, unit: one person, signal-to-noise 0.47",
        "report demo/report.html",
    ):
        assert expected in lines, expected
    text = " ".join(lines)
    for expected in (
        "fleet of 1,000: signal-to-noise 19.6",
        "7.4 kB up, 15.2 kB down per person and round (within the limit of 10.0 kB up); 84.3 kB down once",
        "cohort 24, threshold 8 of 23 neighbours, at least 16 in a sum",
        "a round survives the loss of 6 devices; sums modulo 2^16",
        "4 min 12 s (training 2 min 11 s, rounds 1 min 2 s, scoring 44 s); peak memory 1,893 MB",
    ):
        assert expected in text, expected


def test_text_is_never_read_as_terminal_markup() -> None:
    report = invented_report()
    report["arms"]["[red]odd[/red]"] = report["arms"]["rag"]
    report["privacy"]["unit"] = "[bold]one[/bold]"
    text = table_text(report, width=140)
    assert "[red]odd[/red]" in text and "[bold]one[/bold]" in text


def test_smallest_report_is_enough(tmp_path: Path) -> None:
    write_report(smallest_report(), tmp_path)
    page = read_page(tmp_path)
    assert "Preference bases" not in page.text and "Controls" not in page.text
    assert not (tmp_path / "weights.png").exists() and not (tmp_path / "privacy.png").exists()
    assert "7.4 kB up" in table_text(smallest_report())


def test_pictures_of_an_earlier_run_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / "weights.png").write_bytes(b"old")
    write_report(smallest_report(), tmp_path)
    assert not (tmp_path / "weights.png").exists()


def test_numpy_and_infinite_values_become_plain_json(tmp_path: Path) -> None:
    report = smallest_report()
    report["arms"]["rag"]["loss"] = np.float32(3.25)
    report["arms"]["rag"]["interval"] = np.array([3.0, 3.5])
    report["extra"] = {"ratio": float("inf"), 7: (1, 2)}
    write_report(report, tmp_path)
    read = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert read["arms"]["rag"]["interval"] == [3.0, 3.5] and read["arms"]["rag"]["loss"] == 3.25
    assert read["extra"] == {"ratio": None, "7": [1, 2]}
    assert parse_report(read).arms["rag"].loss == 3.25  # what was written can be read again


@pytest.mark.parametrize(
    "key", ["model", "people", "rounds", "arms", "controls", "privacy", "wire", "secure_aggregation",
            "seconds", "seed", "versions"],
)  # fmt: skip
def test_missing_key_is_named_and_nothing_is_written(key: str, tmp_path: Path) -> None:
    report = smallest_report()
    del report[key]
    with pytest.raises(PenchantError, match=rf"correct these entries first: {key}: Field required"):
        write_report(report, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("arms", "rag", "loss"), float("nan")),
        (("arms", "rag", "gain_interval"), [0.2, 0.1]),
        (("arms", "rag", "interval"), [0.1]),
        (("privacy", "noise"), "private words"),
        (("wire", "up_bytes"), -1),
    ],
)
def test_wrong_entry_is_named_without_its_content(path: tuple[str, ...], value: Any, tmp_path: Path) -> None:
    report = smallest_report()
    inner = report
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    with pytest.raises(PenchantError) as caught:
        write_report(report, tmp_path)
    assert ".".join(path[:2]) in str(caught.value) and "\n" not in str(caught.value)
    assert "private words" not in str(caught.value)


def test_arms_without_the_plain_model_are_refused(tmp_path: Path) -> None:
    report = smallest_report()
    del report["arms"]["none"]
    with pytest.raises(PenchantError, match="arms must hold 'none'"):
        write_report(report, tmp_path)


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.json").write_text("old")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(PenchantError, match=r"Cannot write report.json .* No space left"):
        write_report(smallest_report(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "old"


def test_folder_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(PenchantError, match="Choose another folder"):
        write_report(smallest_report(), tmp_path / "out")


def test_low_signal_is_warned_of_in_table_and_page(tmp_path: Path) -> None:
    report = invented_report()
    report["privacy"]["snr"] = 0.12
    assert "mostly noise" in " ".join(table_text(report).split())
    write_report(report, tmp_path)
    assert "mostly noise" in read_page(tmp_path).text


def test_large_fleet_of_long_names_can_be_drawn(tmp_path: Path) -> None:
    report = invented_report()
    report["bases"]["weights"] = {f"person with a long name {i}": [0.1 * i, -0.2] for i in range(100)}
    report["bases"]["spectrum"] = list(np.linspace(1, 0.1, 32))
    report["round_log"] = report["round_log"] * 30
    report["privacy"]["spend"] = report["privacy"]["spend"] * 30
    write_report(report, tmp_path)
    assert (tmp_path / "weights.png").read_bytes().startswith(PNG_MAGIC)
