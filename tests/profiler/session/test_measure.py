"""A whole measuring run on a machine whose time is a number."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shardwright.base.errors import SpecError
from shardwright.profiler.session.progress import Progress
from shardwright.profiler.session.stopped import StoppedError
from shardwright.profiler.timing.probe import Machine, Sizes, UnavailableError
from shardwright.specs.profile import LayerCheck, Profile, Series, read_profile
from tests.profiler.bench import LAYER, Bench
from tests.profiler.virtual import MadeUpFigure, latency_and_rate, request

pytestmark = pytest.mark.usefixtures("quick_reference")


def no_error(series: Series) -> list[float]:
    return []


def sizes_of(profile: Profile, key: str = "host_copy") -> list[float]:
    return [point.at[0] for series in profile.series if series.key == key for point in series.points]


class TestPoints:
    def test_a_point_holds_what_the_work_took(self, tmp_path: Path) -> None:
        bench = Bench()
        profile = bench.measure(tmp_path, bench.probe(), hooks=bench.hooks(expected_error=no_error))
        (series,) = profile.series
        assert [point.at for point in series.points] == [(float(2**power),) for power in range(10, 31, 4)]
        for point in series.points:
            assert point.seconds == pytest.approx(latency_and_rate(point.at))
            assert point.repeats >= 6
        assert profile.complete
        assert (series.operation, series.variant, series.format, series.axes) == (
            "host_copy",
            "",
            None,
            ("size_bytes",),
        )

    def test_the_file_is_what_is_returned_and_nothing_else_is_left(self, tmp_path: Path) -> None:
        bench = Bench()
        profile = bench.measure(tmp_path, bench.probe())
        assert read_profile(tmp_path / "profile.json") == profile
        assert [path.name for path in tmp_path.iterdir()] == ["profile.json"]

    def test_points_are_placed_where_the_curve_bends(self, tmp_path: Path) -> None:
        """Latency equals transfer at 200 kB: the bend lies within a factor of ten of it."""
        bench = Bench()
        first = {float(2**power) for power in range(10, 31, 4)}
        profile = bench.measure(tmp_path, bench.probe())
        placed = [size for size in sizes_of(profile) if size not in first]
        assert len(placed) >= 3
        bend = [size for size in placed if 2e4 <= size <= 2e6]
        assert len(bend) > len(placed) / 2

    def test_a_straight_line_needs_no_more_points(self, tmp_path: Path) -> None:
        bench = Bench()
        profile = bench.measure(tmp_path, bench.probe(formula=lambda at: at[0] / 1e9))
        assert len(sizes_of(profile)) == 6
        assert profile.seconds < 60

    def test_finish_is_applied_before_it_is_written(self, tmp_path: Path) -> None:
        bench = Bench()
        hooks = bench.hooks(finish=lambda profile: profile.model_copy(update={"remarks": ("fitted",)}))
        assert bench.measure(tmp_path, bench.probe(), hooks=hooks).remarks == ("fitted",)
        assert read_profile(tmp_path / "profile.json").remarks == ("fitted",)


class TestOrderAndBudget:
    def test_every_probe_gets_its_first_size_before_any_gets_its_last(self, tmp_path: Path) -> None:
        order: list[str] = []
        bench = Bench()

        def noting(name: str) -> Callable[[Sizes], float]:
            def formula(at: Sizes) -> float:
                if name not in order:
                    order.append(name)
                return 1e-3

            return formula

        probes = [
            bench.probe(operation=name, formula=noting(name), sizes=[(1.0,), (2.0,), (4.0,)])
            for name in ("matmul", "attention", "rmsnorm", "rotary", "copy", "clip", "adamw", "embedding")
        ]
        profile = bench.measure(tmp_path, *probes, budget_seconds=0.2)
        assert not profile.complete
        assert order == [probe.operation for probe in probes]
        assert all(series.points for series in profile.series)
        assert 8 <= profile.points < 24

    @pytest.mark.parametrize("budget", [0.5, 2.0, 8.0])
    def test_the_budget_is_kept(self, tmp_path: Path, budget: float) -> None:
        """Sizes of up to a second, and more of them than there is time for."""
        bench = Bench()
        sizes = [(float(2**power),) for power in range(20, 34)]
        probes = [bench.probe(operation=name, sizes=sizes) for name in ("matmul", "attention", "host_copy")]
        profile = bench.measure(tmp_path, *probes, budget_seconds=budget)
        assert bench.clock.now <= budget * 1.3 + 0.2
        assert profile.seconds == pytest.approx(bench.clock.now, abs=0.2)
        assert 3 <= profile.points < 3 * len(sizes)

    def test_figures_leave_time_for_sizes(self, tmp_path: Path) -> None:
        """Ten of a second each, of three seconds: two before the sizes, what is left afterwards, the others not."""
        bench = Bench()
        figures = [MadeUpFigure(f"figure-{number}", clock=bench.clock, seconds=1.0) for number in range(10)]
        profile = bench.measure(tmp_path, bench.probe(), figures=figures, budget_seconds=3.0)
        assert profile.points > 0
        assert 2 <= sum(figure.asked for figure in figures) < 10
        assert any("figure-9: not measured for lack of time" in remark for remark in profile.remarks)

    def test_without_any_size_the_usual_budget_is_named(self, tmp_path: Path) -> None:
        bench = Bench()
        figure = MadeUpFigure("slow", clock=bench.clock, seconds=5.0)
        profile = bench.measure(tmp_path, bench.probe(), figures=[figure], budget_seconds=2.0)
        assert profile.points == 0
        (remark,) = [remark for remark in profile.remarks if "important sizes" in remark]
        assert remark.endswith("give --budget 180")

    def test_too_little_time_for_the_most_telling_is_said(self, tmp_path: Path) -> None:
        bench = Bench()
        probe = bench.probe(sizes=[(float(size),) for size in (1, 2, 4, 8, 16, 32)], formula=lambda at: 0.1)
        profile = bench.measure(tmp_path, probe, budget_seconds=2.5)
        assert not profile.complete
        assert 1 <= profile.points < 6
        left = 6 - profile.points
        (remark,) = [remark for remark in profile.remarks if "lack of time" in remark]
        assert remark.startswith(
            f"{left} important sizes were not measured for lack of time: {profile.points} points took"
        )
        assert remark.endswith("give --budget 20")

    def test_the_rest_of_the_first_sizes_comes_when_interpolation_is_good(self, tmp_path: Path) -> None:
        bench = Bench()
        sizes = [(float(2**power),) for power in range(10, 30)]
        straight = bench.probe(sizes=sizes, formula=lambda at: at[0] / 1e9)
        bent = bench.probe(operation="copy", sizes=sizes)
        bench.measure(tmp_path, straight, bent)
        assert straight.prepared[:6] == sizes[:6]
        assert sorted(straight.prepared) == sizes
        assert set(bent.prepared) >= set(sizes)

    def test_work_that_would_eat_the_budget_is_left_out(self, tmp_path: Path) -> None:
        """Known from the smaller sizes before it is tried: 100 s where 10 s are to be spent."""
        bench = Bench()
        probe = bench.probe(sizes=[(2.0**20,), (2.0**22,), (2.0**24,), (1e12,), (2.0**26,)])
        profile = bench.measure(tmp_path, probe, budget_seconds=10.0)
        assert (1e12,) not in probe.prepared
        assert 2.0**26 in sizes_of(profile)

    def test_progress_tells_what_is_left(self, tmp_path: Path) -> None:
        bench = Bench()
        seen: list[Progress] = []
        bench.measure(tmp_path, bench.probe(), hooks=bench.hooks(show=seen.append, expected_error=no_error))
        assert (seen[0].done, seen[0].known, seen[0].now) == (0, 6, "host_copy")
        assert (seen[-1].done, seen[-1].known) == (6, 6)
        assert seen[-1].seconds_left == pytest.approx(60 - bench.clock.now, abs=0.2)

    @pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_budget_that_is_none(self, tmp_path: Path, budget: float) -> None:
        with pytest.raises(SpecError, match="give a number of seconds above 0"):
            request(tmp_path, budget)


class TestNoise:
    def test_a_noisy_size_is_repeated_more(self, tmp_path: Path) -> None:
        bench = Bench()
        calls = [0]

        def noisy(at: Sizes) -> float:
            calls[0] += 1
            return 1e-3 * (1 + 0.2 * (calls[0] % 2))

        steady = bench.probe(operation="steady", sizes=[(1.0,)], formula=lambda at: 1e-3)
        profile = bench.measure(tmp_path, bench.probe(operation="noisy", sizes=[(1.0,)], formula=noisy), steady)
        repeats = {series.operation: series.points[0].repeats for series in profile.series}
        assert repeats["noisy"] >= 2 * repeats["steady"]

    def test_an_uncertain_point_gets_a_second_chance(self, tmp_path: Path) -> None:
        """Noisy for as long as it is measured first, steady afterwards: the steady measurement counts."""
        bench = Bench()
        calls = [0]

        def settling(at: Sizes) -> float:
            calls[0] += at == (2.0,)
            return 1e-3 * (1 + (calls[0] % 2)) if at == (2.0,) and calls[0] <= 62 else 1e-3

        profile = bench.measure(tmp_path, bench.probe(sizes=[(1.0,), (2.0,), (3.0,)], formula=settling))
        points = {point.at: point for point in profile.series[0].points}
        assert len(points) == 3
        assert points[2.0,].seconds == points[2.0,].high_seconds == 1e-3

    def test_outliers_are_told_of(self, tmp_path: Path) -> None:
        """Every fifth call takes ten times as long; the median does not mind."""
        bench = Bench()
        calls = [0]

        def jumpy(at: Sizes) -> float:
            calls[0] += 1
            return 1e-2 if calls[0] % 5 == 0 else 1e-3

        profile = bench.measure(tmp_path, bench.probe(sizes=[(1.0,)], formula=jumpy))
        assert profile.series[0].points[0].seconds == 1e-3
        (remark,) = [remark for remark in profile.remarks if "outliers" in remark]
        assert "most in host_copy" in remark

    def test_a_slow_moment_is_measured_again(self, tmp_path: Path) -> None:
        """Twice as slow for some seconds in the middle: no point shows it, and the profile says that it happened."""
        bench = Bench(slowness=lambda now: 2.0 if 0.5 <= now < 1.0 else 1.0)
        probe = bench.probe(formula=lambda at: 5e-3 + at[0] / 1e12, sizes=[(float(size),) for size in range(1, 41)])
        profile = bench.measure(tmp_path, probe, hooks=bench.hooks(expected_error=no_error))
        worst = max(point.seconds for series in profile.series for point in series.points)
        assert worst < 1.05 * 5e-3
        assert any("rounds were measured again" in remark for remark in profile.remarks)

    def test_a_machine_that_becomes_slower_is_told_of(self, tmp_path: Path) -> None:
        bench = Bench(slowness=lambda now: 1.0 if now < 1.0 else 1.4, clock_hz=1.5e9)
        probe = bench.probe(formula=lambda at: 5e-3, sizes=[(float(size),) for size in range(1, 61)])
        profile = bench.measure(tmp_path, probe, hooks=bench.hooks(expected_error=no_error))
        (remark,) = [remark for remark in profile.remarks if "slower at the end" in remark]
        assert "40% slower" in remark


class TestMemory:
    def test_what_does_not_fit_is_never_prepared_and_said_once(self, tmp_path: Path) -> None:
        bench = Bench(free=lambda: 2.0**27)
        probe = bench.probe(needed=lambda at: 2 * at[0])
        profile = bench.measure(tmp_path, probe, hooks=bench.hooks(expected_error=no_error))
        assert max(size for (size,) in probe.prepared) == 2.0**22
        (remark,) = [remark for remark in profile.remarks if "left out" in remark]
        assert remark == "host_copy: 2 sizes left out: needs 128 MiB, 109 MiB may be taken"
        assert sizes_of(profile) == [2.0**power for power in (10, 14, 18, 22)]

    @pytest.mark.parametrize(
        "trouble",
        [
            MemoryError(),
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        ],
    )
    @pytest.mark.parametrize("where", ["prepare_trouble", "work_trouble"])
    def test_running_out_all_the_same_costs_one_size(self, tmp_path: Path, trouble: Exception, where: str) -> None:
        bench = Bench()
        probe = bench.probe(**{where: {(2.0**18,): trouble}})
        other = bench.probe(operation="matmul", sizes=[(1.0,)])
        profile = bench.measure(tmp_path, other, probe, hooks=bench.hooks(expected_error=no_error))
        assert sizes_of(profile) == [2.0**power for power in (10, 14, 22, 26, 30)]
        assert profile.complete

    def test_what_only_fits_alone_is_measured_alone(self, tmp_path: Path) -> None:
        """Memory that the others of the batch hold: the second try is by itself."""
        bench = Bench()
        tries = [0]

        def crowded(at: Sizes) -> None:
            tries[0] += at == (3.0,)
            if at == (3.0,) and tries[0] == 1:
                raise MemoryError("the others have it")

        probe = bench.probe(sizes=[(1.0,), (2.0,), (3.0,)], before_prepare=crowded)
        assert sizes_of(bench.measure(tmp_path, probe)) == [1.0, 2.0, 3.0]
        assert tries[0] == 2

    def test_sizes_that_fit_one_by_one_are_not_held_together(self, tmp_path: Path) -> None:
        """Each needs more than half of the memory: none is prepared before the one before it has had its repeats."""
        bench = Bench(free=lambda: 100.0)
        runs: list[Sizes] = []
        runs_before: dict[Sizes, int] = {}

        def formula(at: Sizes) -> float:
            runs.append(at)
            return 1e-3

        def note(at: Sizes) -> None:
            runs_before[at] = len(runs)

        probe = bench.probe(
            sizes=[(1.0,), (2.0,), (3.0,)],
            needed=lambda at: 60.0,
            formula=formula,
            before_prepare=note,
        )
        profile = bench.measure(tmp_path, probe, hooks=bench.hooks(expected_error=no_error))
        assert sizes_of(profile) == [1.0, 2.0, 3.0]
        assert runs_before[3.0,] - runs_before[2.0,] >= 8  # two to warm up, six that count


class TestBadLuck:
    def test_a_torch_without_that_format(self, tmp_path: Path) -> None:
        bench = Bench()
        missing = UnavailableError("torch 2.13 has no fp8 matmul on this CPU")
        fp8 = bench.probe(operation="matmul", format="fp8", prepare_trouble={(1.0,): missing}, sizes=[(1.0,)])
        profile = bench.measure(tmp_path, fp8, bench.probe())
        assert [series.key for series in profile.series] == ["host_copy"]
        assert "matmul/fp8: not measured: torch 2.13 has no fp8 matmul on this CPU" in profile.remarks
        assert profile.complete

    def test_a_bug_in_a_probe_costs_one_size(self, tmp_path: Path) -> None:
        bench = Bench()
        probe = bench.probe(prepare_trouble={(2.0**14,): ValueError("shape [2, 3] is invalid\nfor input")})
        profile = bench.measure(tmp_path, probe, hooks=bench.hooks(expected_error=no_error))
        assert len(sizes_of(profile)) == 5
        assert "host_copy: 1 size left out: shape [2, 3] is invalid" in profile.remarks

    def test_a_figure_that_cannot_be_had(self, tmp_path: Path) -> None:
        bench = Bench()
        figures = [MadeUpFigure("launch"), MadeUpFigure("context", UnavailableError("needs a GPU"))]
        profile = bench.measure(tmp_path, bench.probe(), figures=figures)
        assert profile.figures["launch_seconds"].value == 5e-6
        assert "context: not measured: needs a GPU" in profile.remarks

    def test_a_device_that_vanishes(self, tmp_path: Path) -> None:
        """From then on everything fails: what was measured before is kept, in one line."""
        bench = Bench()

        def vanish(at: Sizes) -> float:
            if at == (2.0**26,):
                bench.machine.gone = True
                raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")
            return latency_and_rate(at)

        sizes = [(2.0**power,) for power in (10, 14, 18, 20, 21, 22, 23, 26, 30)]
        with pytest.raises(StoppedError) as stopped:
            bench.measure(tmp_path, bench.probe(operation="matmul", variant="forward", formula=vanish, sizes=sizes))
        assert "the device does not answer any more (device-side assert triggered)" in str(stopped.value)
        assert "\n" not in str(stopped.value)
        kept = read_profile(tmp_path / "profile.json")
        assert kept == stopped.value.profile
        assert not kept.complete
        assert sizes_of(kept, "matmul/forward") == [2.0**power for power in (10, 14, 18, 20, 21, 22, 23)]

    def test_a_device_that_never_works(self, tmp_path: Path) -> None:
        bench = Bench()
        bench.machine.gone = True
        with pytest.raises(SpecError, match="cannot even multiply two matrices \\(device-side assert triggered\\)"):
            bench.measure(tmp_path, bench.probe())
        assert list(tmp_path.iterdir()) == []

    def test_no_folder(self, tmp_path: Path) -> None:
        bench = Bench()
        with pytest.raises(SpecError, match=r"cannot be written \(No such file or directory\)"):
            bench.measure(tmp_path / "missing", bench.probe())
        assert bench.clock.now < 0.1

    def test_a_disk_that_fills_while_measuring(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing more can be written, but all that was measured can be taken from the error."""
        bench = Bench()
        write, lines = os.write, [0]

        def full(handle: int, data: bytes) -> int:
            lines[0] += 1
            if lines[0] > 5:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(handle, data)

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(StoppedError) as stopped:
            bench.measure(tmp_path, bench.probe())
        assert "cannot be written (No space left on device)" in str(stopped.value)
        assert "\n" not in str(stopped.value)
        assert len(sizes_of(stopped.value.profile)) == 3
        assert not stopped.value.profile.complete

    def test_a_profile_that_cannot_be_written_at_the_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        bench = Bench()

        def denied(path: Path, *args: object, **kwargs: object) -> int:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", denied)
            with pytest.raises(StoppedError, match=r"cannot be written \(Permission denied\)") as stopped:
                bench.measure(tmp_path, bench.probe())
        assert len(sizes_of(stopped.value.profile)) >= 6
        again = bench.measure(tmp_path, probe := bench.probe())
        assert not probe.prepared
        assert again.series == stopped.value.profile.series


class TestLayers:
    def test_layers_are_checked_with_the_points(self, tmp_path: Path) -> None:
        bench = Bench()
        seen: list[Profile] = []

        def layers(machine: Machine, profile: Profile) -> list[LayerCheck]:
            seen.append(profile)
            return [LAYER]

        profile = bench.measure(tmp_path, bench.probe(), hooks=bench.hooks(layers=layers))
        assert profile.layers == (LAYER,)
        assert seen[0].series == profile.series

    def test_a_share_of_the_budget_is_kept_for_them(self, tmp_path: Path) -> None:
        bench = Bench()
        left: list[float] = []

        def layers(machine: Machine, profile: Profile) -> list[LayerCheck]:
            left.append(10.0 - bench.clock.now)
            return [LAYER]

        probe = bench.probe(formula=lambda at: 0.02, sizes=[(float(size),) for size in range(1, 400)])
        bench.measure(tmp_path, probe, budget_seconds=10.0, hooks=bench.hooks(layers=layers))
        assert left[0] >= 0.8

    def test_a_model_that_cannot_be_built_is_said(self, tmp_path: Path) -> None:
        bench = Bench()

        def layers(machine: Machine, profile: Profile) -> list[LayerCheck]:
            raise SpecError("config.json: model_type 'mamba' has no layers that can be built")

        profile = bench.measure(tmp_path, bench.probe(), hooks=bench.hooks(layers=layers))
        assert any("layers: not checked: config.json" in remark for remark in profile.remarks)
        assert not profile.complete
        assert profile.points >= 6
