"""The journal: whole lines or none, one run at a time, the same machine and request or a clear word."""

import os
from pathlib import Path

import pytest

from shardwright.base.errors import SpecError
from shardwright.profiler.session.journal import (
    Begun,
    Entry,
    Header,
    Journal,
    LeftOut,
    MeasuredFigures,
    MeasuredPoint,
    journal_path,
)
from shardwright.specs.profile import Figure, MachineFingerprint, Point

FINGERPRINT = MachineFingerprint(
    device="EPYC",
    kind="cpu",
    device_memory_bytes=1e9,
    torch="2.13.0",
    python="3.11.7",
    clock_hz=2.5e9,
    host="here",
    cores=2,
    threads=2,
    ranks=1,
    date="2026-01-02",
)
HEADER = Header(fingerprint=FINGERPRINT, asked={"precision": "bf16"}, measured=("matmul/forward/bf16", "launch"))
POINT = Point(at=(0.1, 3.0), seconds=1 / 3, low_seconds=0.3, high_seconds=0.4, repeats=7)
ENTRIES: tuple[Entry, ...] = (
    MeasuredFigures(name="launch", figures={"launch_seconds": Figure(value=1e-6, unit="s", meaning="made up")}),
    Begun(sizes=(("matmul/forward/bf16", (0.1, 3.0)),)),
    MeasuredPoint(key="matmul/forward/bf16", point=POINT, outliers=2),
    LeftOut(key="matmul/forward/bf16", at=(5.0, 6.0), reason="needs 2 GiB"),
)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "profile.json"


def written(out: Path) -> Path:
    """A journal with one record of each kind."""
    journal = Journal.open(out, HEADER)
    for seconds, entry in enumerate(ENTRIES, start=1):
        journal.append(entry, float(seconds))
    journal.close()
    return journal_path(out)


class TestGoingOn:
    def test_what_was_appended_is_there_again(self, out: Path) -> None:
        written(out)
        journal = Journal.open(out, HEADER)
        assert [record.spent_seconds for record in journal.records] == [1.0, 2.0, 3.0, 4.0]
        assert (journal.records[0].figures, journal.records[1].begun) == ENTRIES[:2]
        assert (journal.records[2].point, journal.records[3].left_out) == ENTRIES[2:]

    def test_it_lies_beside_the_profile(self, out: Path) -> None:
        assert written(out) == out.parent / ".profile.json.journal"

    def test_cut_anywhere_it_holds_the_whole_lines(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "fsync", lambda handle: None)  # a thousand journals, none of which is really cut
        path = written(out)
        whole = path.read_bytes()
        for length in range(len(whole) + 1):
            path.write_bytes(whole[:length])
            journal = Journal.open(out, HEADER)
            assert len(journal.records) == max(0, whole[:length].count(b"\n") - 1)
            journal.append(ENTRIES[2], 9.0)
            journal.close()
            again = Journal.open(out, HEADER)
            assert again.records == journal.records
            again.close()

    def test_a_line_that_is_none_ends_it(self, out: Path) -> None:
        """After a power failure a file may hold zeros."""
        path = written(out)
        lines = path.read_bytes().split(b"\n")
        lines[3] = b"\0" * len(lines[3])
        path.write_bytes(b"\n".join(lines))
        assert len(Journal.open(out, HEADER).records) == 2

    def test_fresh_begins_anew(self, out: Path) -> None:
        written(out)
        assert Journal.open(out, HEADER, fresh=True).records == []

    def test_removed_it_is_gone(self, out: Path) -> None:
        path = written(out)
        Journal.open(out, HEADER).remove()
        assert not path.exists()

    def test_every_line_is_on_disk_before_the_next(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes: list[int] = []
        monkeypatch.setattr(os, "fsync", lambda handle: sizes.append(os.fstat(handle).st_size))
        path = written(out)
        assert len(sizes) == 1 + len(ENTRIES)
        assert sizes == sorted(set(sizes))
        assert sizes[-1] == path.stat().st_size

    def test_a_write_that_takes_only_a_part(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write = os.write
        monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:7]))
        written(out)
        assert len(Journal.open(out, HEADER).records) == 4


class TestAnotherRun:
    @pytest.mark.parametrize(
        ("field", "value", "words"),
        [
            ("torch", "2.11.0", "had torch 2.13.0, this one has torch 2.11.0"),
            ("device", "Xeon", "had device EPYC, this one has device Xeon"),
            ("ranks", 2, "had ranks 1, this one has ranks 2"),
            ("driver", "570.1", "had driver None, this one has driver 570.1"),
        ],
    )
    def test_another_machine(self, out: Path, field: str, value: object, words: str) -> None:
        path = written(out)
        other = HEADER.model_copy(update={"fingerprint": FINGERPRINT.model_copy(update={field: value})})
        with pytest.raises(SpecError, match=words) as refused:
            Journal.open(out, other)
        assert "--fresh" in str(refused.value)
        assert "\n" not in str(refused.value)
        assert path.stat().st_size > 0

    @pytest.mark.parametrize("field", ["date", "clock_hz", "device_memory_bytes"])
    def test_what_changes_by_itself_does_not_matter(self, out: Path, field: str) -> None:
        written(out)
        value: object = "2026-02-03" if field == "date" else 1.0
        other = HEADER.model_copy(update={"fingerprint": FINGERPRINT.model_copy(update={field: value})})
        assert len(Journal.open(out, other).records) == 4

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"asked": {"precision": "fp32"}}, "had precision bf16, this one has precision fp32"),
            ({"asked": {}}, "had precision bf16, this one has precision none"),
            ({"measured": ("launch",)}, "measured matmul/forward/bf16, this one does not"),
            (
                {"measured": (*HEADER.measured, "rotary/forward/bf16", "copy/bf16")},
                "did not measure rotary/forward/bf16 and 1 more, this one does",
            ),
        ],
    )
    def test_another_request(self, out: Path, change: dict[str, object], words: str) -> None:
        written(out)
        with pytest.raises(SpecError, match=words):
            Journal.open(out, HEADER.model_copy(update=change))

    @pytest.mark.parametrize("line", ['{"kind": "shardwright-profile-journal", "schema_version": 2}', "[1, 2]", '"a"'])
    def test_what_cannot_be_read_is_not_thrown_away(self, out: Path, line: str) -> None:
        path = journal_path(out)
        path.write_text(line + "\n")
        with pytest.raises(SpecError, match="is not a journal that this shardwright can read"):
            Journal.open(out, HEADER)
        assert path.read_text() == line + "\n"

    def test_two_at_once(self, out: Path) -> None:
        journal = Journal.open(out, HEADER)
        with pytest.raises(SpecError, match="another process is measuring this profile now"):
            Journal.open(out, HEADER)
        journal.close()
        Journal.open(out, HEADER).close()


class TestDisk:
    def test_a_full_disk(self, out: Path) -> None:
        """/dev/full takes no byte: what was on disk before stays whole."""
        journal = Journal.open(out, HEADER)
        journal.append(ENTRIES[0], 1.0)
        with Path("/dev/full").open("wb") as full:
            os.dup2(full.fileno(), journal._handle)
        with pytest.raises(SpecError, match=r"\.journal: cannot be written \(No space left on device\)") as error:
            journal.append(ENTRIES[1], 2.0)
        assert "\n" not in str(error.value)
        assert len(journal.records) == 1
        journal.close()
        assert len(Journal.open(out, HEADER).records) == 1

    def test_no_permission(self, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(*arguments: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", denied)
        with pytest.raises(SpecError, match=r"\.profile\.json\.journal: cannot be written \(Permission denied\)"):
            Journal.open(out, HEADER)

    def test_a_folder_in_its_place(self, out: Path) -> None:
        journal_path(out).mkdir()
        with pytest.raises(SpecError, match=r"cannot be written \(Is a directory\)"):
            Journal.open(out, HEADER)

    def test_a_device_in_its_place(self, out: Path) -> None:
        journal_path(out).symlink_to("/dev/zero")
        with pytest.raises(SpecError, match=r"cannot be written \(not a file\)"):
            Journal.open(out, HEADER)
