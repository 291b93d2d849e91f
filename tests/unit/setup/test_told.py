"""What init and doctor print: commands that a shell takes as they stand, and texts that cannot steer the terminal."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from raydelt.errors import InputError
from raydelt.setup import begin, told
from raydelt.setup.begin import Wish
from raydelt.setup.findings import Finding
from raydelt.setup.reading import kind_of_model


def test_the_commands_that_come_next_can_be_pasted() -> None:
    file = "my specs/it's one.yaml"
    lines = told.begun(begin.begin(Wish("builtin://iris"), file=file), file).splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("  raydelt ")]
    assert [command[:3] for command in commands] == [["raydelt", verb, file] for verb in ("doctor", "estimate", "run")]


def test_a_finding_is_one_line_that_cannot_steer_the_terminal() -> None:
    text = told.findings([Finding("source", "fail", "column a\x1b[2Jb\nc is odd", "mend \u202eit")])
    assert text.splitlines() == ["fail  source  column a [2Jb c is odd - mend  it", "0 ok, 0 warn, 1 fail"]


@pytest.mark.parametrize("config", ["{", "[]", '{"architectures": [1]}', '{"n_positions": "many"}'])
def test_a_broken_config_of_a_model_is_one_sentence(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match=r"--model '.*': its config\.json cannot be read .*: give a folder"):
        kind_of_model(str(tmp_path))
