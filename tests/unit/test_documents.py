"""What README and docs/ show works: a block is run, parsed or validated by a rule of its language; none is skipped.

    yaml     merged into a small spec (of a language model where it has one, or its page is of one) and validated
    python   executed in an empty folder; those that need Ray or a run in tests/cluster/test_documents_on_ray.py
    sh       every command is known, parses, and has a help; files exist, or the comment before the block says `yours`
    text     a formula that stands so in the docstring of the module that its comment names, a drawing, or an output

Beside that: links lead somewhere, commands in the prose exist, the JSON schema accepts the specs, and what is public
has a docstring. The pages of the scorers have tests of their own.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from packaging.requirements import Requirement
from typer.testing import CliRunner

from raydelt.cli.app import app
from raydelt.config import RunConfig
from raydelt.specfile import json_schema, load, validate
from tests import documents
from tests.bench.__main__ import BENCHES
from tests.documents import ON_RAY, ROOT, Block, all_blocks, anchors, code_words, links, parsed

SMALL: dict[str, Any] = {"name": "document", "corpus": {"source": "builtin://digits"}, "output": "runs/document"}
LANGUAGE: dict[str, Any] = {
    "corpus": {"source": "data/*.jsonl", "text_column": "text"},
    "model": {"kind": "causal_lm", "path": "models/my-lm"},
}
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))


# Blocks, by language.


def as_spec(text: str) -> RunConfig:
    """The spec that a fragment belongs to: its sections over those of a small one.

    Scorers come after the default pair where the fragment does not say what is ranked by.
    """
    fragment = yaml.safe_load(text)
    assert isinstance(fragment, dict), "a fragment is a mapping of sections"
    unknown = set(fragment) - set(RunConfig.model_fields)
    assert not unknown, f"{unknown} are no sections of a spec"
    raw = SMALL | (LANGUAGE if fragment.get("model", {}).get("kind") == "causal_lm" else {}) | fragment
    if "score" in fragment and "combine" not in fragment.get("rank", {}):
        raw["score"] = [{"kind": "difficulty"}, {"kind": "consistency"}, *fragment["score"]]
    return validate(raw)


def check_yaml(block: Block, _: Path) -> None:
    assert not block.note, block.note
    as_spec(block.text)


def check_python(block: Block, folder: Path) -> None:
    if block.note == ON_RAY:
        own = (ROOT / ON_RAY.removeprefix("runs in: ")).read_text()
        assert "documents.ON_RAY" in own
        compile(block.text, str(block), "exec")
        return
    assert not block.note, block.note
    command = [sys.executable, "-c", block.text]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def check_shell(block: Block, _: Path) -> None:
    assert not block.note or block.note.startswith("yours: "), block.note
    yours = block.note.removeprefix("yours: ").split()
    for words in documents.command_lines(block.text):
        assert words[0] in SHELL, f"no rule for the command {words[0]!r}"
        SHELL[words[0]](words[1:], yours)
    said = " ".join(word for words in documents.command_lines(block.text) for word in words)
    assert all(name in said for name in yours), f"{yours} are not all of this block"


def check_raydelt(words: list[str], yours: list[str]) -> None:
    if ">" in words:
        words = words[: words.index(">")]
    path, _ = parsed(words)
    shown = CliRunner().invoke(app, [*path, "--help"])
    assert shown.exit_code == 0, shown.output
    check_files(words[len(path) :], yours)


def check_files(words: list[str], yours: list[str]) -> None:
    for word in words:
        named = re.search(r"\.(ya?ml|csv|jsonl|parquet|py|svg|json)$", word) or word.startswith(("runs/", "data/"))
        if named and "=" not in word:
            assert word in yours or (ROOT / word).exists(), f"{word} is not in the repository, nor said to be yours"


def check_make(words: list[str], _: list[str]) -> None:
    for target in words:
        assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


def check_python_command(words: list[str], yours: list[str]) -> None:
    if words[:2] == ["-m", "tests.bench"]:
        assert set(words[2:]) <= set(BENCHES), words
        return
    assert words[0].endswith(".py"), f"no rule for python {words}"
    check_files(words, yours)


def check_ray(words: list[str], yours: list[str]) -> None:
    assert words[:2] == ["job", "submit"], f"no rule for ray {words}"
    check_python_command(words[words.index("--") + 2 :], yours)


def check_pip(words: list[str], _: list[str]) -> None:
    assert words[0] == "install", words
    extras = re.search(r"^\[project.optional-dependencies\]\n(.*?)^\[", _project(), re.MULTILINE | re.DOTALL)
    assert extras is not None
    for word in words[1:]:
        wanted = Requirement(word)
        if wanted.name == "raydelt":
            assert all(re.search(rf"^{extra} = ", extras[1], re.MULTILINE) for extra in wanted.extras), word


def _project() -> str:
    return (ROOT / "pyproject.toml").read_text()


SHELL: dict[str, Callable[[list[str], list[str]], None]] = {
    "raydelt": check_raydelt,
    "make": check_make,
    "python": check_python_command,
    "ray": check_ray,
    "pip": check_pip,
}


def check_text(block: Block, _: Path) -> None:
    kind, _, what = block.note.partition(": ")
    if kind == "formula of":
        module = ast.parse((ROOT / (what.replace(".", "/") + ".py")).read_text())
        known = {_squeezed(line) for line in (ast.get_docstring(module) or "").splitlines()}
        lost = [line for line in block.text.splitlines() if line.strip() and _squeezed(line) not in known]
        assert not lost, f"not in the docstring of {what}: {lost}"
    elif kind == "printed by":
        check_python_command(what.split()[1:], [])
    else:
        assert block.note == "drawing", f"say what this text is: formula of, printed by, drawing (got {block.note!r})"


def _squeezed(line: str) -> str:
    return " ".join(line.split())


RULES: dict[str, Callable[[Block, Path], None]] = {
    "yaml": check_yaml,
    "python": check_python,
    "sh": check_shell,
    "text": check_text,
}


@pytest.mark.parametrize("block", all_blocks(), ids=str)
def test_every_block_works(block: Block, tmp_path: Path) -> None:
    assert block.language in RULES, f"no rule for a block of {block.language or 'no language'}"
    RULES[block.language](block, tmp_path)


@pytest.mark.parametrize("path", documents.documents(), ids=lambda path: path.name)
def test_commands_in_the_prose_exist(path: Path) -> None:
    for words in (word.split() for word in code_words(path) if word.startswith("raydelt ")):
        group = command = documents.root_command()
        for word in words[1:]:
            if word == "/":
                command = group
            elif hasattr(command, "commands") and re.fullmatch("[a-z]+", word):
                assert word in command.commands, f"{' '.join(words)}: no command {word!r}"
                group, command = command, command.commands[word]
        options = {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts}
        assert {word for word in words if word.startswith("-")} <= options | {"--help"}, " ".join(words)


# Links, the schema, docstrings.

LINKED = [*documents.documents(), ROOT / "cluster/README.md", ROOT / "docker/README.md"]


@pytest.mark.parametrize("path", LINKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in links(path):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        there = (path.parent / place).resolve() if place else path
        assert there.exists(), f"{target}: nothing there"
        if anchor:
            assert anchor in anchors(there), f"{target}: no such heading"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_the_schema_accepts_the_specs(path: Path) -> None:
    Draft202012Validator(json_schema()).validate(yaml.safe_load(path.read_text()))
    load(path)


def _public() -> Iterator[tuple[str, ast.AST]]:
    for path in sorted((ROOT / "raydelt").rglob("*.py")):
        module = ast.parse(path.read_text())
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield name, module
        for node in module.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield f"{name}.{node.name}", node


def test_what_is_public_has_a_docstring() -> None:
    bare = [name for name, node in _public() if not ast.get_docstring(node)]  # type: ignore[arg-type]
    assert not bare, bare


def test_formulas_name_modules_that_can_be_imported() -> None:
    for block in all_blocks():
        if block.note.startswith("formula of: "):
            importlib.import_module(block.note.removeprefix("formula of: "))
