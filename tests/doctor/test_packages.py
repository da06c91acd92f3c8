from importlib import metadata

import pytest
from packaging.requirements import Requirement

from shardwright.doctor import packages as room
from shardwright.doctor.finding import Finding
from shardwright.doctor.packages import package, packages, solvers


def test_what_is_there_is_one_line_and_what_is_not_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=1", "no-such-package>=2; extra == 'run'", "pydantic<1; extra == 'run'", "mypy; extra == 'dev'"]
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    always, *training = packages()
    assert (always.part, always.state, always.found) == ("planning", "there", f"numpy {metadata.version('numpy')}")
    missing = Finding("training", "no-such-package", "missing", "not installed", "pip install '.[run]'")
    old = Finding("training", "pydantic", "limited", metadata.version("pydantic"), "needs <1: pip install '.[run]'")
    assert training == [missing, old]


def test_a_package_for_another_system_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        metadata, "requires", lambda name: ["no-such-package; sys_platform == 'vax' and extra == 'run'"]
    )
    assert list(packages()) == []


def test_a_development_version_of_an_allowed_one_is_there() -> None:
    assert package(Requirement("torch>=2.0"), "run").state == "there"


def test_a_copy_that_is_not_installed_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_PROJECT", "no-such-project")
    (only,) = packages()
    assert (only.state, only.advice) == ("limited", "pip install .")


def test_solvers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "HiGHS" in solvers().found
    monkeypatch.setattr(room, "available_solvers", lambda: ())
    assert solvers().state == "missing"
