"""Exported files are taken by the frameworks that are installed; `python -m shardwright.benchmarks.framework_files` has more."""

import pytest

from shardwright.base import SpecError
from shardwright.benchmarks.framework_files import CHECKS, check_target
from shardwright.benchmarks.framework_files.__main__ import main
from shardwright.exports import TARGETS


def test_every_target_has_a_check() -> None:
    assert CHECKS.keys() == TARGETS.keys()


@pytest.mark.parametrize("target", CHECKS)
def test_a_framework_takes_its_files_and_refuses_a_spoiled_one(target: str) -> None:
    checked = check_target(target, plans=4)
    if checked.version is None:
        pytest.skip(f"{checked.package} is not installed")
    assert checked.refusal is None
    assert checked.accepted == checked.plans
    assert checked.refuses_spoiled


def test_an_unknown_target_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SpecError, match="target 'megatorn' has no check; known: megatron"):
        check_target("megatorn", plans=1)
    monkeypatch.setattr("sys.argv", ["framework_files", "megatorn"])
    assert main() == 2
    assert capsys.readouterr().err.startswith("error: target 'megatorn'")
