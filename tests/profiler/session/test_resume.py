"""A run that was cut short, and the one that goes on."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from shardwright.base.errors import SpecError
from shardwright.profiler.session.journal import journal_path
from shardwright.specs.profile import Profile
from tests.profiler.bench import LAYER, Bench
from tests.profiler.virtual import MadeUpFigure, MadeUpProbe

pytestmark = pytest.mark.usefixtures("quick_reference")


def comparable(profile: Profile) -> dict[str, Any]:
    """All but when and how long."""
    data = profile.model_dump()
    for field in ("seconds", "remarks"):
        del data[field]
    del data["fingerprint"]["date"]
    return data


class TestResume:
    @staticmethod
    def _run(bench: Bench, folder: Path) -> tuple[Profile, list[MadeUpProbe], MadeUpFigure]:
        probes = [
            bench.probe(operation="matmul", formula=lambda at: 1e-6 + at[0] ** 1.1 / 1e10),
            bench.probe(work_trouble={(2.0**18,): MemoryError("too much")}),
        ]
        figure = MadeUpFigure(clock=bench.clock)
        hooks = bench.hooks(layers=lambda machine, profile: [LAYER])
        profile = bench.measure(folder, *probes, figures=[figure], hooks=hooks, budget_seconds=600.0)
        return profile, probes, figure

    @staticmethod
    def _whole_journal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Profile, bytes]:
        """The profile of a run that nothing stopped, and the journal as it was at its end."""
        kept: list[bytes] = []
        unlink = Path.unlink

        def keep(path: Path, missing_ok: bool = False) -> None:
            if path.name.endswith(".journal"):
                kept.append(path.read_bytes())
            unlink(path, missing_ok=missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", keep)
            profile, *_ = TestResume._run(Bench(), folder)
        return profile, kept[0]

    def test_killed_after_any_byte(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever of the journal was on disk, the run that goes on ends with the same profile."""
        monkeypatch.setattr(os, "fsync", lambda handle: None)  # many runs, none of which is really killed
        whole, journal = self._whole_journal(tmp_path, monkeypatch)
        lines = [index for index, byte in enumerate(journal) if byte == ord("\n")]
        offsets = (
            {0, 1, len(journal)}
            | {at + shift for at in lines[::3] for shift in (0, 1, 40)}
            | set(range(0, len(journal), 2_999))
        )
        for offset in sorted(offset for offset in offsets if offset <= len(journal)):
            (tmp_path / "profile.json").unlink()
            journal_path(tmp_path / "profile.json").write_bytes(journal[:offset])
            profile, *_ = self._run(Bench(), tmp_path)
            assert comparable(profile) == comparable(whole), f"after {offset} of {len(journal)} bytes"

    def test_nothing_is_measured_twice(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _, journal = self._whole_journal(tmp_path, monkeypatch)
        journal_path(tmp_path / "profile.json").write_bytes(journal)
        _, probes, figure = self._run(Bench(), tmp_path)
        assert [probe.prepared for probe in probes] == [[], []]
        assert figure.asked == 0

    def test_time_already_spent_counts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole, journal = self._whole_journal(tmp_path, monkeypatch)
        journal_path(tmp_path / "profile.json").write_bytes(journal)
        profile, *_ = self._run(Bench(), tmp_path)
        assert profile.seconds == pytest.approx(whole.seconds, abs=0.1)

    def test_another_request(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _, journal = self._whole_journal(tmp_path, monkeypatch)
        journal_path(tmp_path / "profile.json").write_bytes(journal)
        bench = Bench()
        with pytest.raises(SpecError, match=r"measured matmul and 1 more, this one does not; .* --fresh"):
            bench.measure(tmp_path, bench.probe())
        assert bench.measure(tmp_path, bench.probe(), fresh=True).points >= 6

    def test_another_torch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _, journal = self._whole_journal(tmp_path, monkeypatch)
        header, rest = journal.split(b"\n", 1)
        changed = json.loads(header)
        changed["fingerprint"]["torch"] = "2.11.0"
        journal_path(tmp_path / "profile.json").write_bytes(json.dumps(changed).encode() + b"\n" + rest)
        with pytest.raises(
            SpecError, match=rf"had torch 2.11.0, this one has torch {torch.__version__.replace('+', '.')}"
        ):
            self._run(Bench(), tmp_path)
