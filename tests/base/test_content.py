import os
import shutil
from pathlib import Path

import pytest

from shardwright.base import content
from shardwright.base.content import files_digest, rows_digest
from shardwright.base.errors import SpecError


def digest(*files: Path) -> str:
    return files_digest(files, [file.stat().st_size for file in files])


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    found = [tmp_path / name for name in ("a.bin", "b.bin")]
    for number, file in enumerate(found):
        file.write_bytes(bytes([number]) * 100_000)
    return found


def changed(file: Path, place: int) -> None:
    whole = bytearray(file.read_bytes())
    whole[place] ^= 1
    file.write_bytes(bytes(whole))


def test_small_data_is_read_whole(files: list[Path]) -> None:
    for place in (0, 5_000, 77_777, 99_999):
        before = digest(*files)
        changed(files[1], place)
        assert digest(*files) != before


def test_of_large_data_places_from_the_first_byte_to_the_last(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change between them is not noticed, which is what the documentation says."""
    monkeypatch.setattr(content, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(content, "_MOST_BLOCKS", 3)
    before = digest(*files)
    changed(files[0], 10_000)
    assert digest(*files) == before
    for place in (0, 50_000, 99_999):
        before = digest(*files)
        changed(files[0], place)
        assert digest(*files) != before


def test_a_copy_with_other_times_is_the_same_and_another_order_is_not(files: list[Path], tmp_path: Path) -> None:
    copies = [Path(shutil.copy(file, tmp_path / f"copy-{file.name}")) for file in files]
    for copy in copies:
        os.utime(copy, (0, 0))
    assert digest(*copies) == digest(*files)
    assert digest(*files[::-1]) != digest(*files)


def test_where_one_file_ends_counts(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"xy")
    (tmp_path / "b").write_bytes(b"z")
    before = digest(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"yz")
    assert digest(tmp_path / "a", tmp_path / "b") != before


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"gone.bin: cannot be read \(No such file"):
        files_digest([tmp_path / "gone.bin"], [3])


def test_rows_of_a_dataset() -> None:
    rows = [[number, number + 1] for number in range(1000)]
    before = rows_digest(rows.__getitem__, len(rows))
    for place in (0, 999):
        other = [*rows[:place], [9999], *rows[place + 1 :]]
        assert rows_digest(other.__getitem__, len(rows)) != before
    assert rows_digest(rows.__getitem__, 1) == rows_digest([rows[0]].__getitem__, 1)
    assert rows_digest(rows.__getitem__, 0) == rows_digest([].__getitem__, 0)
