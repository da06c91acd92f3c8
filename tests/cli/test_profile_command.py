"""`profile` as the shell calls it: measuring, showing, comparing, and what it refuses."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from shardwright.base.errors import RanksLostError
from shardwright.base.processes import cpu_model, usable_cores
from shardwright.profiler import as_launched
from shardwright.profiler.as_launched import MeasuredProfile
from shardwright.profiler.machine import local
from shardwright.specs.profile import read_profile, write_profile
from tests.cli.command import JOB, Command, assert_one_line
from tests.reports.made_up_profile import fingerprint, profile

SXM = {"kind": "gpu", "device": "NVIDIA H100 80GB HBM3", "device_memory_bytes": 85.0e9, "ranks": 8}


@pytest.fixture
def sxm_path(tmp_path: Path) -> Path:
    """A made-up profile of an H100, its matmuls in bf16 and fp32."""
    path = tmp_path / "sxm.json"
    write_profile(path, profile(fingerprint=fingerprint(**SXM)))
    return path


class TestMeasuring:
    def test_a_few_seconds_go_to_the_store(self, command: Command, store: Path) -> None:
        result = command("profile", "--budget", "4", "--ranks", "1", "--only", "addition", "--precision", "fp32")
        assert result.code == 0, result.err
        (path,) = store.iterdir()
        measured = read_profile(path)
        assert {series.key for series in measured.series} == {"addition/forward/fp32", "addition/backward/fp32"}
        assert measured.points > 0
        assert all(series.curve is not None for series in measured.series if series.points)
        assert measured.fingerprint.ranks == 1
        assert f"wrote {path}" in result.out
        assert "memory-bound operators" in result.out
        shown = command("profile", "show", "--json").json()
        assert (shown["file"], shown["points"]) == (str(path), measured.points)

    def test_several_ranks_as_json(self, command: Command, tmp_path: Path) -> None:
        path = tmp_path / "two.json"
        only = ("--only", "broadcast", "--quiet")
        result = command("profile", "--budget", "4", "--ranks", "2", *only, "--out", path, "--json")
        assert result.code == 0, result.err
        printed, measured = result.json(), read_profile(path)
        assert (printed["file"], printed["stopped"]) == (str(path), None)
        assert measured.fingerprint.ranks == 2
        assert {series.operation for series in measured.series if series.points} == {"broadcast"}
        assert {point.at[1] for series in measured.series for point in series.points} == {2.0}
        assert printed["points"] == measured.points > 0

    def test_one_that_exists_is_not_measured_again(self, command: Command, profile_path: Path) -> None:
        before = profile_path.read_text()
        assert_one_line(command("profile", "--out", profile_path), str(profile_path), "--force")
        assert profile_path.read_text() == before

    def test_one_that_was_cut_short_goes_on(self, command: Command, tmp_path: Path) -> None:
        """The file is there already, with what was measured until then; a journal beside it says that it is not all."""
        path = tmp_path / "part.json"
        write_profile(path, profile(complete=False))
        (tmp_path / ".part.json.journal").touch()
        arguments = ("--budget", "1", "--ranks", "1", "--only", "addition", "--precision", "fp32", "--quiet")
        result = command("profile", *arguments, "--out", path)
        assert result.code == 0, result.err
        assert {series.operation for series in read_profile(path).series} == {"addition"}


class TestBrokenOff:
    """What was measured until then is there; one line says why it is not all."""

    @pytest.mark.parametrize(("signal_number", "code"), [(None, 1), (2, 130), (15, 143)])
    def test_by_a_signal_or_a_lost_device(
        self, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, signal_number: int | None, code: int
    ) -> None:
        part = MeasuredProfile(profile(complete=False), tmp_path / "p.json", "it ended; run again", signal_number)
        monkeypatch.setattr(as_launched, "run_profile", lambda *_, **__: part)
        result = command("profile", "--out", tmp_path / "p.json")
        assert (result.code, result.err) == (code, "error: it ended; run again\n")
        assert "233 points" in result.out
        assert "wrote" not in result.out
        as_json = command("profile", "--out", tmp_path / "p.json", "--json")
        assert as_json.code == code
        assert (as_json.json()["stopped"], as_json.json()["complete"]) == ("it ended; run again", False)

    def test_by_a_rank_that_is_gone(self, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def lost(*_: object, **__: object) -> MeasuredProfile:
            raise RanksLostError("rank 1 was killed (SIGKILL)")

        monkeypatch.setattr(as_launched, "run_profile", lost)
        assert_one_line(command("profile", "--out", tmp_path / "p.json"), "rank 1 was killed", code=1)

    def test_other_ranks_say_nothing(self, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        other = MeasuredProfile(profile(), tmp_path / "p.json", leads=False)
        monkeypatch.setattr(as_launched, "run_profile", lambda *_, **__: other)
        assert command("profile", "--out", tmp_path / "p.json") == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--budget", "-3"), ("--budget is -3", "above 0")),
        (("--budget", "nan"), ("--budget is nan",)),
        (("--budget", "inf"), ("--budget is inf",)),
        (("--budget", "soon"), ("--budget", "soon")),
        (("--precision", "bf61"), ("bf61", "Did you mean 'bf16'?")),
        (("--precision", "fp4"), ("fp4", "fp32, tf32, fp16, bf16, fp8")),
        (("--only", "mamtul"), ("mamtul", "Did you mean 'matmul'?")),
        (("--only", "matmul,all-reduse"), ("all_reduse", "Did you mean 'all_reduce'?")),
        (("--only", ""), ("--only ''", "matmul, attention")),
        (("--only", "disk"), ("--disk FOLDER",)),
        (("--only", "layers"), ("--model",)),
        (("--disk", "/nowhere"), ("/nowhere", "folder")),
        (("--out", "/nowhere/profile.json"), ("/nowhere", "does not exist")),
        (("--model", "llama-3.2-1"), ("--seq-len",)),
        (("--model", "llama-3.2-1", "--seq-len", "64"), ("llama-3.2-1", "Did you mean 'llama-3.2-1b'?")),
        (("--seq-len", "64"), ("--model",)),
        (("--model", "llama-3.2-1b", "--seq-len", "0"), ("seq_len", "0")),
        (("--micro-batch", "0"), ("micro_batch", "0")),
        (("--ranks", "99"), ("--ranks 99", "from 1 to")),
        (("--ranks", "0"), ("--ranks 0", "from 1 to")),
        (("--bugdet", "10"), ("--bugdet", "--budget")),
        (("--budget", "10", "show"), ("--budget before 'show'", "after")),
        (("--json", "show"), ("--json before 'show'",)),
        (("shwo",), ("shwo",)),
        (("mine.json",), ("profile show mine.json",)),
        (("show", "missing.json"), ("missing.json",)),
        (("show", "/dev/zero"), ("/dev/zero", "device")),
        (("diff", "missing.json", "missing.json"), ("missing.json",)),
        (("diff", "only-one.json"), ("PROFILE",)),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else None,
)
def test_one_clear_line(
    command: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(local, "reported_gpus", lambda: ())
    assert_one_line(command("profile", *arguments), *words)


class TestShow:
    def test_tables(self, command: Command, profile_path: Path) -> None:
        result = command("profile", "show", profile_path)
        assert result.code == 0
        for words in (
            str(profile_path),
            "Cray-1",
            "94.1 GFLOP/s",
            "Remark: other programs",
            "dispatch_seconds",
            "+10.0%",
        ):
            assert words in result.out

    def test_a_page(self, command: Command, tmp_path: Path, profile_path: Path) -> None:
        write_profile(profile_path, profile(series=profile().series[-1:]))
        page = tmp_path / "r.html"
        result = command("profile", "show", profile_path, "--report", page)
        assert result.code == 0
        assert 'data-chart="bandwidth-collectives"' in page.read_text()
        assert f"wrote {page}" in result.out

    def test_as_json(self, command: Command, profile_path: Path) -> None:
        printed = command("profile", "show", profile_path, "--json").json()
        assert printed["file"] == str(profile_path)
        assert len(printed["series"]) == len(profile().series)

    def test_the_newest_of_this_machine(self, command: Command, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local, "reported_gpus", lambda: ())
        assert_one_line(command("profile", "show"), str(store), "shardwright profile")
        store.mkdir(parents=True)
        here = {"device": cpu_model(), "cores": usable_cores(), "torch": version("torch")}
        write_profile(store / "mine.json", profile(fingerprint=fingerprint(**here)))
        assert "mine.json" in command("profile", "show").out

    def test_an_empty_file(self, command: Command, tmp_path: Path) -> None:
        (tmp_path / "p.json").touch()
        assert_one_line(command("profile", "show", tmp_path / "p.json"), "not valid JSON")

    def test_half_a_file(self, command: Command, profile_path: Path) -> None:
        profile_path.write_text(profile_path.read_text()[:-30])
        assert_one_line(command("profile", "show", profile_path), "not valid JSON", "complete?")

    def test_a_plan(self, command: Command, plan_path: Path) -> None:
        assert_one_line(command("profile", "show", plan_path), str(plan_path), "is not a profile file")

    def test_a_schema_of_the_future(self, command: Command, profile_path: Path) -> None:
        data = json.loads(profile_path.read_text()) | {"schema_version": 2}
        profile_path.write_text(json.dumps(data))
        assert_one_line(command("profile", "show", profile_path), "schema version 2", "reads up to 1")

    def test_a_page_replaces_no_profile(self, command: Command, profile_path: Path) -> None:
        result = command("profile", "show", profile_path, "--report", profile_path, "--force")
        assert_one_line(result, "read by this command")


class TestDiff:
    def test_the_same_machine_twice(self, command: Command, profile_path: Path) -> None:
        result = command("profile", "diff", profile_path, profile_path)
        assert result.code == 0
        assert "Nothing beyond noise" in result.out

    def test_another_speed(self, command: Command, profile_path: Path, tmp_path: Path) -> None:
        slower = tmp_path / "slower.json"
        write_profile(slower, profile(factor=1.3))
        assert "6 of 21 series and figures differ" in command("profile", "diff", profile_path, slower).out
        printed = command("profile", "diff", profile_path, slower, "--json").json()
        assert printed["beyond_noise"] == 6
        assert (printed["a"], printed["b"]) == (str(profile_path), str(slower))
        assert printed["series"][0]["verdict"] == "slower"
        assert command("profile", "diff", slower, profile_path, "--json").json()["series"][0]["verdict"] == "faster"


class TestPredictingFromOne:
    """`--profile` of the commands that take a cluster or a plan."""

    def test_a_plan_rests_on_it_and_holds_it(self, command: Command, tmp_path: Path, sxm_path: Path) -> None:
        path = tmp_path / "measured.json"
        plain = command("plan", "llama-3.2-1b", *JOB, "--json").json()["plan_file"]
        found = command("plan", "llama-3.2-1b", *JOB, "--profile", sxm_path, "--out", path, "--json").json()
        assert found["plan_file"]["estimate"]["basis"] == "profile"
        # its matmuls are thousands of times slower than the data sheet's
        assert found["plan_file"]["estimate"]["step"]["compute"] > 100 * plain["estimate"]["step"]["compute"]
        assert any(
            "rests on a profile of NVIDIA H100 80GB HBM3, measured on 2026-01-02." in line for line in found["why"]
        )
        explained = command("explain", path, "--json").json()
        assert explained["plan_file"]["estimate"]["step"] == found["plan_file"]["estimate"]["step"]
        assert explained["plan_file"]["cluster"]["groups"][0]["profile"] == json.loads(sxm_path.read_text())

    def test_what_it_lacks_is_said(self, command: Command, sxm_path: Path) -> None:
        why = command("plan", "llama-3.2-1b", *JOB, "--precision", "fp16", "--profile", sxm_path, "--json").json()[
            "why"
        ]
        assert why[-1].startswith("The profile holds no matmul in fp16, no attention in fp16")
        compared = command(
            *("compare", "llama-3.2-1b", *JOB, "--precision", "fp16"),
            *("--profile", sxm_path, "--strategy", "zero3", "--json"),
        )
        assert compared.err.startswith("note: The profile holds no matmul in fp16")
        assert compared.json()["rows"][0]["estimate"]["basis"] == "profile"

    def test_explaining_and_simulating_a_plan_by_it(self, command: Command, plan_path: Path, sxm_path: Path) -> None:
        by_catalog = command("explain", plan_path, "--json").json()["plan_file"]["estimate"]
        by_profile = command("explain", plan_path, "--profile", sxm_path, "--json").json()
        assert (by_catalog["basis"], by_profile["plan_file"]["estimate"]["basis"]) == ("catalog", "profile")
        assert "The profile holds no attention in bf16" in by_profile["why"][-1]
        catalog_step = command("simulate", plan_path, "--json").json()["step_seconds"]
        result = command("simulate", plan_path, "--profile", sxm_path, "--json")
        assert result.json()["step_seconds"] > 10 * catalog_step
        assert result.err.startswith("note: The profile holds no attention in bf16")

    @pytest.mark.parametrize("verb", ["plan", "compare", "explain", "simulate"])
    def test_one_of_another_device(
        self, command: Command, plan_path: Path, profile_path: Path, tmp_path: Path, verb: str
    ) -> None:
        job = ("llama-3.2-1b", *JOB) if verb in ("plan", "compare") else (plan_path,)
        result = command(verb, *job, "--profile", profile_path)
        assert_one_line(result, str(profile_path), "Cray-1", "h100-sxm")
        pcie = tmp_path / "pcie.json"
        write_profile(pcie, profile(fingerprint=fingerprint(**(SXM | {"device": "NVIDIA H100 PCIe"}))))
        assert_one_line(command(verb, *job, "--profile", pcie), "NVIDIA H100 PCIe (h100-pcie", "is h100-sxm")

    @pytest.mark.parametrize("content", ["", "{}", '{"kind": "shardwright-plan"}'])
    def test_one_that_is_none(self, command: Command, tmp_path: Path, content: str) -> None:
        path = tmp_path / "p.json"
        path.write_text(content)
        assert_one_line(command("plan", "llama-3.2-1b", *JOB, "--profile", path), str(path))

    def test_it_is_not_replaced_by_what_is_written(self, command: Command, sxm_path: Path) -> None:
        result = command("plan", "llama-3.2-1b", *JOB, "--profile", sxm_path, "--out", sxm_path, "--force")
        assert_one_line(result, "read by this command")


def test_a_broken_file_in_the_store_is_one_line_of_warning(
    command: Command, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "reported_gpus", lambda: ())
    store.mkdir(parents=True)
    (store / "half.json").write_text('{"kind": "shardwright-profile", "fingerprint"')
    with pytest.warns(UserWarning, match=r"half\.json.*left out"):
        result = command("profile", "show")
    assert result.code == 2
