"""The README and docs/ taken apart: code blocks with the comment before them, links, headings, words that are code.

An HTML comment on the line before a block says what its reader does not see: what a formula is of, which files of a
command are the user's own, which test runs it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).parents[1]
ON_RAY = "runs in: tests/cluster/test_documents_on_ray.py"
FENCE = re.compile(r"^(\s*)(`{3,}|~{3,})(.*)$")
COMMENT = re.compile(r"^<!-- (.+) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, its language, its text, and the comment on the line before it."""

    path: str
    line: int
    language: str
    text: str
    note: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


def documents() -> list[Path]:
    """The README and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: Path) -> list[Block]:
    """Every fenced block of a page.

    Raises:
        ValueError: a fence is indented, of another kind, or never closed.
    """
    found, opened = [], None
    name, lines = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        match = FENCE.match(line)
        if match is None:
            continue
        if match[1] or match[2] != "```":
            raise ValueError(f"{name}:{number + 1}: a fence is three backticks at the start of a line")
        if opened is None:
            opened = number
            continue
        note = COMMENT.match(lines[opened - 1]) if opened else None
        text = "\n".join(lines[opened + 1 : number]) + "\n"
        found.append(Block(name, opened + 1, lines[opened][3:].strip(), text, note[1] if note else ""))
        opened = None
    if opened is not None:
        raise ValueError(f"{name}:{opened + 1}: a block that never ends")
    return found


def all_blocks() -> list[Block]:
    """Every fenced block of every page."""
    return [block for path in documents() for block in blocks(path)]


def prose(path: Path) -> str:
    """A page without its blocks and comments."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)


def links(path: Path) -> list[str]:
    """The targets of all links and pictures of a page."""
    text = re.sub(r"`[^`\n]*`", "", prose(path))
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(path: Path) -> set[str]:
    """What can stand after # in a link to a page: its headings as GitHub names them."""
    found: set[str] = set()
    for title in re.findall(r"^#{1,6} +(.+?) *$", prose(path), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}-1")
    return found


def code_words(path: Path) -> list[str]:
    """What stands between single backticks in the prose of a page."""
    return re.findall(r"`([^`\n]+)`", prose(path))


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of every command of a shell block; comments are dropped, lines that end with a backslash joined."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def root_command() -> Any:
    """The command line as it is."""
    import raydelt.cli  # noqa: F401  (registers the commands)
    from raydelt.cli.app import app

    return typer.main.get_command(app)


def parsed(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The path of the command that `raydelt WORDS` is, and its parameters.

    Raises:
        click.UsageError: a command or an option does not exist, or an argument is missing.
    """
    command, args, context = root_command(), list(words), None
    path: list[str] = []
    while hasattr(command, "commands"):
        context = command.make_context(path[-1] if path else "raydelt", args, parent=context, resilient_parsing=False)
        name, command, args = command.resolve_command(context, [*context._protected_args, *context.args])
        path.append(name)
    if args == ["--help"]:
        return path, {}
    return path, command.make_context(path[-1], args, parent=context).params
