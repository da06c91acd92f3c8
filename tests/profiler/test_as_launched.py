"""Measuring this machine as it was launched, with what is timed and the ranks replaced."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from shardwright.base.errors import RanksLostError, SpecError
from shardwright.costmodel.op_times.protocol import OpTimes
from shardwright.profiler import as_launched
from shardwright.profiler.machine import local
from shardwright.profiler.profile_options import ProfileOptions
from shardwright.profiler.ranks.nodes import Nodes
from shardwright.profiler.ranks.seam import AloneRanks, Ranks
from shardwright.profiler.session.measure import Hooks, ProfileRequest
from shardwright.profiler.session.progress import Progress
from shardwright.profiler.session.stopped import StoppedError
from shardwright.profiler.timing.machines import CpuMachine
from shardwright.profiler.timing.probe import FigureProbe, Machine, Probe
from shardwright.specs.profile import Figure, LayerCheck, Profile, write_profile
from tests.catalog.test_profile_attachment import cpu_cluster
from tests.reports.made_up_profile import fingerprint, matmul, profile


class Measuring:
    """In place of `measure_profile`: keeps what it was called with, writes a made-up profile."""

    def __init__(self) -> None:
        self.request: ProfileRequest
        self.probes: set[str]
        self.formats: set[str | None]
        self.figures: set[str]
        self.hooks: Hooks
        self.stop: str | None = None
        self.busy: threading.Thread

    def __call__(
        self,
        request: ProfileRequest,
        machine: Machine,
        probes: list[Probe],
        figures: list[FigureProbe],
        *,
        ranks: Ranks,
        hooks: Hooks,
    ) -> Profile:
        self.request, self.hooks = request, hooks
        self.probes = {probe.operation for probe in probes}
        self.first_matmul = next((probe.first_sizes()[0] for probe in probes if probe.operation == "matmul"), ())
        self.formats = {probe.format for probe in probes}
        self.figures = {probe.name for probe in figures}
        self.first_figure = figures[0].name if figures else None
        hooks.show(Progress(1, 2, 3.0, "matmul"))
        measured = hooks.finish(Profile(fingerprint=fingerprint(), series=(unfitted(),)))
        write_profile(request.out, measured)
        if self.stop:
            self.busy = threading.Thread(target=time.sleep, args=(0.3,), daemon=True)
            self.busy.start()
            raise StoppedError(self.stop, measured, signal_number=2)
        return measured


class FourRanks(AloneRanks):
    """The second of four ranks on two nodes, as `joined_ranks` gives it."""

    rank = 1
    size = 4
    nodes = Nodes(("a", "a", "b", "b"))


def unfitted() -> Any:
    return matmul("forward", "fp32").model_copy(update={"curve": None})


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Measuring:
    """A machine without GPUs that nothing has launched."""
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(local, "reported_gpus", lambda: ())
    found = Measuring()
    monkeypatch.setattr(as_launched, "measure_profile", found)
    return found


def run(out: Path | None = None, ranks: int | None = 1, **options: Any) -> as_launched.MeasuredProfile:
    asked = ProfileOptions.parse(options, source="options")
    return as_launched.run_profile(asked, out=out, ranks=ranks, show=lambda progress: None)


def test_by_default_all_but_the_disk_into_the_store(measuring: Measuring, tmp_path: Path) -> None:
    found = run()
    assert found.path.parent == tmp_path / "shardwright" / "profiles"
    assert measuring.request.out == found.path
    assert {"matmul", "attention", "addition", "adamw", "host_copy"} < measuring.probes
    assert not measuring.probes & {"disk_read", "all_reduce"}
    assert measuring.formats == {"fp32", "bf16", None}
    assert {"overlap with copies"} < measuring.figures
    assert "overlap with collectives" not in measuring.figures
    assert measuring.hooks.layers is None
    assert (found.stopped, found.leads) == (None, True)


def test_only_what_is_asked_for(measuring: Measuring, tmp_path: Path) -> None:
    run(tmp_path / "p.json", only=("disk",), disk=tmp_path)
    assert measuring.probes == {"disk_read", "disk_write"}
    assert measuring.figures == set()
    run(tmp_path / "p.json", only=("figures",))
    assert measuring.probes == set()
    assert "overlap with copies" in measuring.figures


def test_sustained_load_is_measured_first_where_it_is_asked_for(measuring: Measuring, tmp_path: Path) -> None:
    run(tmp_path / "p.json", only=("figures",))
    assert "sustained matmul" not in measuring.figures
    run(tmp_path / "p.json", only=("figures",), sustained_seconds=1)
    assert measuring.first_figure == "sustained matmul"


def test_casts_asked_for_by_name_are_measured_here(measuring: Measuring, tmp_path: Path) -> None:
    run(tmp_path / "p.json", only=("casts",))
    assert measuring.probes == {"cast"}
    assert measuring.formats == {"bf16"}


def test_a_layer_is_compared_with_matmuls_with_pauses(
    measuring: Measuring, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both are timed with pauses, so the sustained share counts for neither."""
    seen: list[OpTimes] = []

    def check_layer(*_: object, times: OpTimes, **__: object) -> list[LayerCheck]:
        seen.append(times)
        return []

    monkeypatch.setattr(as_launched, "local_cluster", cpu_cluster)
    monkeypatch.setattr(as_launched, "check_layer", check_layer)
    run(tmp_path / "p.json", model="llama-3.2-1b", seq_len=32, formats=("fp32",))
    check = measuring.hooks.layers
    assert check is not None
    figure = Figure(value=0.5, unit="share", meaning="sustained")
    for figures in ({}, {"sustained_matmul_share": figure}):
        check(CpuMachine(), profile(figures=figures))
    paused, loaded = (float(times.matmul_seconds(512, 512, 512)) for times in seen)
    assert loaded == paused


def test_the_request_says_what_was_asked(measuring: Measuring, tmp_path: Path) -> None:
    run(tmp_path / "p.json", budget_seconds=7, fresh=True, formats=("fp16",))
    request = measuring.request
    assert (request.out, request.budget_seconds, request.fresh) == (tmp_path / "p.json", 7, True)
    assert request.asked == {"--precision": "fp16"}


def test_what_is_written_has_its_curves(measuring: Measuring, tmp_path: Path) -> None:
    (series,) = run(tmp_path / "p.json").profile.series
    assert series.curve is not None
    assert series.curve.residual_median < 0.05


def test_a_series_without_points_has_no_curve() -> None:
    empty = profile(series=(unfitted().model_copy(update={"points": ()}),))
    assert as_launched.with_curves(empty).series[0].curve is None


def test_one_that_was_cut_short(measuring: Measuring, tmp_path: Path) -> None:
    measuring.stop = "ended by SIGINT"
    found = run(tmp_path / "p.json")
    assert not measuring.busy.is_alive()  # an interpreter that ended before it would abort
    assert (found.stopped, found.signal_number) == ("ended by SIGINT", 2)
    assert found.profile.points == 27


def test_as_many_ranks_as_local_has(measuring: Measuring, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two cores: two ranks, whose lines of progress reach whoever watches, and whose file is read."""
    told: list[Progress] = []

    def ranks_here(count: int, job: str, argument: str, *, tell: Callable[[str], None]) -> str:
        assert (count, job) == (2, "shardwright.profiler.as_launched:measure_as_rank")
        data = json.loads(argument)
        assert ProfileOptions.parse(data["options"], source="options").only == ("matmul",)
        write_profile(Path(data["out"]), profile())
        tell(json.dumps({"done": 1, "known": 2, "seconds_left": 3.0, "now": "matmul"}))
        return json.dumps({"stopped": "ended by SIGTERM", "signal_number": 15})

    monkeypatch.setattr(local, "usable_cores", lambda: 2)
    monkeypatch.setattr(as_launched, "run_local_ranks", ranks_here)
    asked = ProfileOptions(only=("matmul",))
    found = as_launched.run_profile(asked, out=tmp_path / "p.json", ranks=None, show=told.append)
    assert told == [Progress(1, 2, 3.0, "matmul")]
    assert (found.profile, found.stopped, found.signal_number) == (profile(), "ended by SIGTERM", 15)


@pytest.mark.parametrize("journalled", [True, False])
def test_a_rank_that_is_gone(
    measuring: Measuring, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, journalled: bool
) -> None:
    def ranks_here(*_: object, **__: object) -> str:
        raise RanksLostError("rank 1 was killed (SIGKILL)")

    monkeypatch.setattr(as_launched, "run_local_ranks", ranks_here)
    if journalled:
        (tmp_path / ".p.json.journal").touch()
    with pytest.raises(RanksLostError) as raised:
        run(tmp_path / "p.json", ranks=2)
    assert str(raised.value).startswith("rank 1 was killed (SIGKILL)")
    assert ("run the same command again" in str(raised.value)) == journalled


@pytest.mark.parametrize("ranks", [0, 9, -1])
def test_more_ranks_than_this_machine_holds(measuring: Measuring, ranks: int) -> None:
    with pytest.raises(
        SpecError, match=rf"--ranks {ranks}: a CPU host holds at most 8 ranks; give a whole number from 1"
    ):
        run(ranks=ranks)


def test_ranks_are_the_launchers_where_there_is_one(measuring: Measuring, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(as_launched, "joined_ranks", lambda launch: nullcontext(FourRanks()))
    found = run(ranks=None, formats=("fp32",))
    assert not found.leads
    assert {"all_reduce", "send"} < measuring.probes
    assert {"overlap with collectives", "memory of a communicator"} < measuring.figures
    assert run(ranks=4, formats=("fp32",)).path.name.startswith(found.path.name.partition("-torch")[0])
    with pytest.raises(SpecError, match="--ranks 2: torchrun started 4; leave --ranks out"):
        run(ranks=2)


def test_a_store_that_cannot_be_made(measuring: Measuring, tmp_path: Path) -> None:
    (tmp_path / "shardwright").touch()
    with pytest.raises(SpecError, match=r"cannot be made.*give --out FILE"):
        run()


def test_a_model_brings_its_shapes_and_its_layers(
    measuring: Measuring, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The layers are checked against what the profile measured so far says, in each format."""
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(as_launched, "local_cluster", cpu_cluster)
    run(tmp_path / "p.json", model=str(tmp_path / "config.json"), seq_len=32, formats=("fp32",))
    assert measuring.first_matmul in [(32, 64, 64), (32, 64, 128), (32, 64, 1000), (32, 128, 64), (32, 64, 32)]
    check = measuring.hooks.layers
    assert check is not None
    slow = matmul("forward", "fp32", factor=1e3).model_copy(update={"curve": None})
    layers = check(CpuMachine(), profile(series=(slow,)))
    assert {(layer.recompute, layer.format, layer.seq_len) for layer in layers} == {
        ("none", "fp32", 32),
        ("full", "fp32", 32),
    }
    assert all(layer.forward_seconds > 0 for layer in layers)
    assert all(layer.predicted_forward_seconds > 5e-3 for layer in layers)  # each of seven matmuls starts in 2 ms
