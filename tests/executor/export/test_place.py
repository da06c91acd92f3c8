"""A kill in the middle of an export."""

from collections.abc import Callable
from pathlib import Path

from shardwright.executor.export.place import whole_folder
from tests.killed import until_killed


def test_it_leaves_nothing_under_the_folders_name_and_the_next_export_clears_its_part(tmp_path: Path) -> None:
    def killed(die: Callable[[], None]) -> None:
        with whole_folder(tmp_path / "to") as partial:
            (partial / "model.safetensors").write_bytes(b"half")
            die()

    assert until_killed(killed)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".to.")
    with whole_folder(tmp_path / "to") as partial:
        (partial / "model.safetensors").write_bytes(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["to"]
    assert (tmp_path / "to" / "model.safetensors").read_bytes() == b"whole"
