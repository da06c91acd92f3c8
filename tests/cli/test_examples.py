"""The examples of `--help` are commands that exist, with options that do."""

import shlex
from typing import Any

import pytest
import typer

from shardwright.benchmarks.mutated_inputs import options_of_commands
from shardwright.cli import app
from shardwright.cli.options.examples import EXAMPLES
from tests.cli.command import Command


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_each_is_understood(line: str) -> None:
    program, *words = shlex.split(line)
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        name, *words = words
        command = command.commands[name]
    assert program == "shardwright"
    assert command.make_context(command.name, words).params


@pytest.mark.parametrize("name", options_of_commands())
def test_the_help_of_every_command_ends_with_its_own(command: Command, name: str) -> None:
    shown = " ".join(command(*name.split(), "--help").out.split())
    assert shown.endswith(EXAMPLES[name][-1])
    assert all(line.startswith(f"shardwright {name} ") or line == f"shardwright {name}" for line in EXAMPLES[name])


def test_ask_alone_prints_its_help(command: Command) -> None:
    result = command("ask")
    assert result.code == 2
    assert "longest-sequence" in result.err
    assert result.err.count("\n") > 10, "not in one line, as a mistake"
