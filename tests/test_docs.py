"""The documentation checked against the code: commands, options, links, files, tests, imports and rooms.

README.md takes part once it is there.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from simulations.cli import app

REPOSITORY = Path(__file__).resolve().parents[1]
ROOMS = ("simulations", "server", "client", "edge_runtime", "protocol")  # each may import what follows it
PAGES = sorted(page for page in [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("**/*.md")] if page.is_file())
FENCE = re.compile(r"^ {0,3}(```+|~~~+)[ \t]*([\w-]*)[^\n]*\n(.*?)^ {0,3}\1[ \t]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
NAMED_FILE = re.compile(
    r"(?<![\w./-])((?:protocol|edge_runtime|client|server|simulations|tests|docs)/[\w./-]*\w/?)(?:::(\w+))?"
)
MACHINE_PATH = re.compile(r"(?<![\w.~}])/(?:work|home|root|mnt|media|srv|Users|usr/local|var/folders)\b|\b[A-Z]:\\")
ENVIRONMENT = re.compile(r"[A-Z_][A-Z0-9_]*=")


def page_name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def fences(text: str) -> list[tuple[str, str]]:
    """(language, content) of every fenced block."""
    return [(language, content) for _, language, content in FENCE.findall(text)]


def commands_in(text: str) -> Iterator[list[str]]:
    """The words after `penchant` of every fenced command that begins with it, up to a pipe or a redirection."""
    for _, content in fences(text):
        for line in content.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            if "penchant" not in line:
                continue
            try:
                words = shlex.split(line, comments=True)
            except ValueError:  # not a shell line
                continue
            while words and ENVIRONMENT.match(words[0]):
                words = words[1:]
            if words[:1] == ["penchant"]:
                stop = [i for i, word in enumerate(words) if word in ("|", "||", "&&", ";", ">", "<", "2>", "&")]
                yield words[1 : stop[0] if stop else None]


@cache
def root_command() -> Any:
    return typer.main.get_command(app)


def leaf_commands(command: Any, path: str = "") -> Iterator[str]:
    default = getattr(command, "default_command", None)  # `penchant simulate FILE` is `penchant simulate run FILE`
    for name, inner in command.commands.items():
        leaf = path.strip() if name == default else path + name
        yield from leaf_commands(inner, f"{path}{name} ") if hasattr(inner, "commands") else [leaf]


def problem_with(words: list[str]) -> str:
    """What is wrong with `penchant WORDS`, or ""."""
    command = root_command()
    options = names_of(command)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] not in command.commands and hasattr(command, "default_command"):
            words = [command.default_command, *words]
        if words[0] not in command.commands:
            return f"there is no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
        options = names_of(command)
    takes_value = {
        name
        for parameter in command.params
        if parameter.param_type_name == "option" and not parameter.is_flag
        for name in parameter.opts
    }
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == "--":
            break
        if word.startswith("-") and word != "-":
            name = word.partition("=")[0]
            if name not in options:
                return f"{command.name} has no option {name}"
            if name in takes_value and "=" not in word:
                position += 1
    return ""


def names_of(command: Any) -> set[str]:
    return {"--help"} | {
        name
        for parameter in command.params
        if parameter.param_type_name == "option"
        for name in [*parameter.opts, *parameter.secondary_opts]
    }


def anchors_of(page: Path) -> set[str]:
    """The anchors that a page's headings make, as code hosts derive them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#{1,6}\s+(.+?)\s*#*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def top_level_names(file: Path) -> frozenset[str]:
    """Names that a module defines or imports at its top level."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            found.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_command_shown_exists_with_its_options(page: Path) -> None:
    wrong = [
        f"penchant {' '.join(words)}: {problem}"
        for words in commands_in(page.read_text(encoding="utf-8"))
        if (problem := problem_with(words))
    ]
    assert not wrong


def test_the_check_of_commands_can_fail() -> None:
    text = "```sh\nA=1 penchant nonsense\npenchant ask 'a -b c' --colour red | cat\npenchant recall -k -1\n```\n"
    problems = [problem_with(words) for words in commands_in(text)]
    assert problems == ["there is no command 'nonsense'", "ask has no option --colour", ""]
    assert problem_with(["model", "remove"]) == "there is no command 'remove'"


@pytest.mark.parametrize("command", sorted(leaf_commands(root_command())))
def test_every_command_is_documented(command: str) -> None:
    wanted = re.compile(rf"\bpenchant {re.escape(command)}\b")
    assert any(wanted.search(page.read_text(encoding="utf-8")) for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors_of(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_file_and_test_named_exists(page: Path) -> None:
    missing = []
    for name, test in NAMED_FILE.findall(page.read_text(encoding="utf-8")):
        file = REPOSITORY / name.rstrip("/.")
        if not file.exists() or (test and test not in top_level_names(file)):
            missing.append(f"{name}::{test}" if test else name)
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_python_blocks_import_what_exists(page: Path) -> None:
    missing = []
    for language, content in fences(page.read_text(encoding="utf-8")):
        if language not in ("python", "py"):
            continue
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ROOMS:
                file = REPOSITORY / Path(*node.module.split(".")).with_suffix(".py")
                known = top_level_names(file) if file.exists() else frozenset()
                missing += [f"{node.module}.{alias.name}" for alias in node.names if alias.name not in known]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_no_page_names_a_place_on_one_machine(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if MACHINE_PATH.search(line)]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_the_page_of_settings_and_protocol_is_short(page: Path) -> None:
    if page.name in ("README.md", "results.md"):
        pytest.skip("this page may be longer")
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 160


def test_the_experiment_page_names_every_setting_with_its_default() -> None:
    page = REPOSITORY / "docs" / "simulate.md"
    text = page.read_text(encoding="utf-8")
    tables = {
        "[training]": ("client/training.py", "TrainingPlan"),
        "[plan]": ("server/algorithms.py", "PreferencePlan"),
        "[held_out]": ("simulations/experiments/arms.py", "HeldOut"),
    }
    for table, (file, name) in tables.items():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{table}`")]
        shown = dict(re.findall(r"`(\w+)` \(([^)]+)\)", row))
        fields = fields_with_defaults(REPOSITORY / file, name)
        assert {key: float(value) for key, value in shown.items()} == fields
    for field in annotated_fields(REPOSITORY / "simulations" / "experiments" / "settings.py", "ExperimentSettings"):
        assert re.search(rf"`\[?{field}\]?`", text), field
    flower = (REPOSITORY / "docs" / "flower.md").read_text(encoding="utf-8")
    for field in annotated_fields(REPOSITORY / "server" / "fleet.py", "FleetSettings"):
        assert f"`{field.replace('_', '-')}`" in flower, field


def class_body(file: Path, name: str) -> list[ast.AnnAssign]:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return [item for item in node.body if isinstance(item, ast.AnnAssign)]
    raise AssertionError(f"{file.name} has no class {name}")


def annotated_fields(file: Path, name: str) -> list[str]:
    return [item.target.id for item in class_body(file, name) if isinstance(item.target, ast.Name)]


def fields_with_defaults(file: Path, name: str) -> dict[str, float]:
    """Fields whose default is a plain number."""
    return {
        item.target.id: float(item.value.value)
        for item in class_body(file, name)
        if isinstance(item.target, ast.Name)
        and isinstance(item.value, ast.Constant)
        and isinstance(item.value.value, int | float)
    }


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_downwards(room: str) -> None:
    forbidden = set(ROOMS[: ROOMS.index(room)]) | ({"client"} if room == "server" else set())
    wrong = []
    for file in sorted((REPOSITORY / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            wrong += [f"{file.name}: {module}" for module in modules if module.split(".")[0] in forbidden]
    assert not wrong
