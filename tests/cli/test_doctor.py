from importlib import metadata

import pytest

from shardwright.doctor import Finding
from tests.cli.command import Command


def test_what_is_found_is_printed_part_by_part(command: Command) -> None:
    done = command("doctor", "--json")
    assert done.code == 0
    found = done.json()
    parts = [one["part"] for one in found]
    assert parts == sorted(parts, key=("planning", "training", "several machines", "optional").index)
    shown = command("doctor").out
    assert all(one["name"] in shown for one in found)


def test_it_fails_where_a_plan_would(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["no-such-package>=2"])
    done = command("doctor")
    assert done.code == 1
    assert "no-such-package" in done.out
    assert "pip install ." in done.out


def test_what_to_install_is_shown_as_it_is_typed(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = Finding("training", "torch", "missing", "not installed", "pip install '.[run]'")
    monkeypatch.setattr("shardwright.doctor.examine", lambda: [lacking])
    assert "pip install '.[run]'" in command("doctor").out
