"""What kills leave of folders that were being written."""

from pathlib import Path

import pytest

from shardwright.base.partial_folders import partial_folder
from tests.killed import until_killed


def left_by_a_kill(final: Path) -> Path:
    def work(die: object) -> None:
        with partial_folder(final) as partial:
            (partial / "half").write_text("written")
            assert callable(die)
            die()

    before = set(final.parent.iterdir())
    assert until_killed(work)
    (left,) = set(final.parent.iterdir()) - before
    assert (left / "half").read_text() == "written"
    return left


def test_a_folder_that_is_renamed_stays_and_another_goes(tmp_path: Path) -> None:
    with partial_folder(tmp_path / "new" / "to") as partial:
        partial.rename(tmp_path / "new" / "to")
    with pytest.raises(KeyError), partial_folder(tmp_path / "new" / "other"):
        raise KeyError
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["to"]


@pytest.mark.parametrize("name", ["to", "to[1]*"])
def test_the_next_one_removes_what_a_kill_has_left(name: str, tmp_path: Path) -> None:
    left = left_by_a_kill(tmp_path / name)
    with partial_folder(tmp_path / name) as partial:
        assert list(tmp_path.iterdir()) == [partial]
    assert not left.exists()


def test_what_is_of_others_stays(tmp_path: Path) -> None:
    """A folder that a process still writes, one of another name, a user's file, a link."""
    other = left_by_a_kill(tmp_path / "other")
    users = tmp_path / ".to.mine.partial"
    users.write_text("a file")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".to.link.partial").symlink_to(tmp_path / "elsewhere")
    with partial_folder(tmp_path / "to") as first, partial_folder(tmp_path / "to") as second:
        assert first.is_dir()
        assert second.is_dir()
    assert other.is_dir()
    assert users.read_text() == "a file"
    assert (tmp_path / "elsewhere").is_dir()
    with partial_folder(tmp_path / "to", leftovers=".*.partial"):
        assert not other.exists()
