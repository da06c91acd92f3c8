"""scripts/browser installs a browser where none is and it may, says one line where it cannot, and never fails."""

import subprocess
from pathlib import Path

import pytest

from .shown import ROOT


def run(folder: Path, **programs: str) -> tuple[str, str]:
    """What it prints, and the calls of apt-get, with these programs alone on the path."""
    for name, body in {"timeout": 'shift; "$@"', **programs}.items():
        (folder / name.replace("_", "-")).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name.replace("_", "-")).chmod(0o755)
    done = subprocess.run(
        ["/bin/bash", str(ROOT / "scripts" / "browser")],
        env={"PATH": str(folder), "LOG": str(folder / "log")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == ""
    return done.stdout, (folder / "log").read_text() if (folder / "log").exists() else ""


def test_nothing_happens_where_a_browser_is(tmp_path: Path) -> None:
    assert run(tmp_path, chromium="", id="echo 0", apt_get='echo "$@" >> $LOG') == ("", "")


def test_a_superuser_of_debian_gets_one(tmp_path: Path) -> None:
    said, called = run(tmp_path, id="echo 0", apt_get='echo "$@" >> $LOG')
    assert said.count("\n") == 1
    assert called == "-qq install -y --no-install-recommends chromium fonts-dejavu-core\n"


def test_the_lists_are_fetched_where_the_first_try_fails(tmp_path: Path) -> None:
    apt = 'echo "$2" >> $LOG; [ "$2" = update ] && exit 0; [ "$(grep -c install $LOG)" = 2 ]'
    said, called = run(tmp_path, id="echo 0", apt_get=apt, grep='exec /bin/grep "$@"')
    assert called == "install\nupdate\ninstall\n"
    assert "will skip" not in said


@pytest.mark.parametrize(
    "programs", [{"id": "echo 1000", "apt_get": "exit 0"}, {"id": "echo 0"}, {"id": "echo 0", "apt_get": "exit 1"}]
)
def test_one_line_says_that_the_tests_will_skip(tmp_path: Path, programs: dict[str, str]) -> None:
    said, _ = run(tmp_path, **programs)
    assert said.splitlines()[-1].startswith("no browser, and none could be installed")
