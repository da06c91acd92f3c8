"""The examples of `--help` are commands that exist, with options that do."""

import shlex

import pytest
import typer

from shardwright.cli import app
from shardwright.cli.options.examples import EXAMPLES
from tests.cli.command import Command


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_each_is_understood(line: str) -> None:
    program, name, *arguments = shlex.split(line)
    group = typer.main.get_command(app)
    command = group.commands[name]  # type: ignore[attr-defined]
    assert program == "shardwright"
    assert command.make_context(name, arguments).params


def test_help_ends_with_them(command: Command) -> None:
    shown = command("plan", "--help").out
    assert shown.rstrip().endswith(EXAMPLES["plan"][-1])
