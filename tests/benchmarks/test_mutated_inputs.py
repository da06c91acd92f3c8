"""Damaged inputs of every kind are answered in one clear line; the benchmark tries thousands."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardwright.benchmarks.mutated_inputs import (
    BASES,
    INPUTS,
    Outcome,
    case,
    check,
    fault,
    options_of_commands,
    pairs,
    run,
    write_inputs,
)
from shardwright.benchmarks.mutated_inputs.training import checks_alone

_CASES = 300
_AT_ONCE = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The good inputs."""
    folder = tmp_path_factory.mktemp("mutated") / "inputs"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(folder / "data"))
        write_inputs(folder)
        yield folder


def test_every_command_takes_the_good_inputs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise damaged ones would be refused for another reason than their damage."""
    monkeypatch.chdir(folder)
    for kind in INPUTS:
        for command in kind.commands:
            stands_for = {"{}": kind.name, "{folder}": Path(kind.name).parts[0]}
            with checks_alone():
                outcome = run(tuple(stands_for.get(word, word) for word in command))
            shutil.rmtree(folder / "out", ignore_errors=True)
            assert (outcome.code, outcome.error) == (0, None), (command, outcome.stderr)


@pytest.mark.parametrize("command", BASES)
def test_every_good_call_is_accepted(folder: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(folder)
    for base in BASES[command]:
        with checks_alone():
            outcome = run((*command.split(), *base))
        for written in ("out", "script"):
            shutil.rmtree(folder / written, ignore_errors=True)
            (folder / written).unlink(missing_ok=True)
        assert (outcome.code, outcome.error) == (0, None), (base, outcome.stderr)


def test_every_option_of_every_command_is_drawn(tmp_path: Path) -> None:
    """The parser says which there are. An option of one case in two is the next one in turn."""
    assert BASES.keys() == options_of_commands().keys(), "each command has good calls"
    assert {("plan", "--phases"), ("ask cost", "--tokens"), ("run", "--replan"), ("profile", "--budget")} <= {
        (command, option.name) for command, option in pairs()
    }
    for number, (command, option) in enumerate(pairs()):
        words = case(2 * number + 1, tmp_path).arguments
        assert words[: len(command.split())] == tuple(command.split())
        assert any(word.startswith(option.name[:-1]) for word in words), (command, option)


@pytest.mark.parametrize("first", range(0, _CASES, _AT_ONCE))
def test_damaged_inputs(folder: Path, first: int) -> None:
    faults = {}
    for number in range(first, first + _AT_ONCE):
        given, _, wrong = check(number, folder)
        if wrong is not None:
            faults[number] = (given.arguments, wrong)
    assert not faults


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome(None, "", "", "KeyError: 'x'"), "not caught"),
        (Outcome(2, "", "", None), "without a word"),
        (Outcome(2, "", "error: " + "x" * 400, None), "a line of 407"),
        (Outcome(2, "", "error: \x1b[31m", None), "control character"),
        (Outcome(0, "{", "", None), "JSON that is none"),
        (Outcome(0, '{"a": [{"mfu": 1.5}]}', "", None), "mfu of 1.5"),
        (Outcome(0, '{"a": Infinity}', "", None), "JSON that is none"),
    ],
)
def test_faults_are_seen(outcome: Outcome, words: str) -> None:
    found = fault(("plan", "--json"), outcome)
    assert found is not None
    assert words in found
