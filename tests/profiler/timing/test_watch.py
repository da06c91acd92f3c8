"""A reference work that shows what the machine does."""

from collections.abc import Sequence
from typing import Literal

import pytest

from shardwright.profiler.timing.watch import Watch


def watched(
    seconds: Sequence[float], kind: Literal["gpu", "cpu"] = "cpu", clocks: Sequence[float] = ()
) -> tuple[Watch, list[bool]]:
    """A watch that has looked as often as there are seconds, and what each look said."""
    times, told = iter(seconds), iter(clocks)
    watch = Watch(kind, lambda repeats: next(times), lambda: next(told, None))
    return watch, [watch.look() for _ in seconds]


class TestLook:
    @pytest.mark.parametrize(("kind", "slow"), [("cpu", 1.16), ("gpu", 1.06)])
    def test_slower_than_usual_by_more_than_its_kind_varies(self, kind: Literal["gpu", "cpu"], slow: float) -> None:
        _, said = watched([1.0] * 5 + [slow, 1.0], kind)
        assert said == [False] * 5 + [True, False]

    @pytest.mark.parametrize(("kind", "slow"), [("cpu", 1.14), ("gpu", 1.04)])
    def test_not_by_less(self, kind: Literal["gpu", "cpu"], slow: float) -> None:
        assert not any(watched([1.0] * 5 + [slow], kind)[1])

    def test_faster_is_no_disturbance(self) -> None:
        assert not any(watched([1.0] * 5 + [0.5])[1])

    def test_what_stays_slow_becomes_usual(self) -> None:
        _, said = watched([1.0] * 4 + [2.0] * 8)
        assert said[4]
        assert not said[-1]


class TestRemarks:
    def test_slower_at_the_end_with_clocks(self) -> None:
        watch, _ = watched([1.0] * 4 + [1.1] * 3, "gpu", clocks=[1.98e9] * 3 + [1.4e9] * 3)
        assert watch.remarks() == [
            "the machine was 10% slower at the end than at the beginning: it may be throttling "
            "(clock 1980 MHz, then 1400 MHz)"
        ]

    def test_without_clocks(self) -> None:
        watch, _ = watched([1.0] * 4 + [1.1] * 3, "gpu")
        assert watch.remarks()[0].endswith("it may be throttling")

    def test_a_steady_gpu_has_nothing_to_say(self) -> None:
        assert watched([1.0] * 10, "gpu")[0].remarks() == []

    def test_a_cpu_says_how_noisy_it_is(self) -> None:
        watch, _ = watched([1.0, 1.1, 0.9, 1.0, 1.1, 0.9])
        assert watch.remarks() == ["measured on a CPU, which is noisy: the reference matmul varied by ±10.0%"]

    def test_disturbed_rounds_are_counted(self) -> None:
        watch, _ = watched([1.0] * 6, "gpu")
        watch.disturbed_rounds = 3
        assert watch.remarks() == [
            "3 rounds were measured again because the reference matmul was more than 5% slower than usual meanwhile"
        ]

    def test_few_looks_say_nothing(self) -> None:
        assert watched([1.0, 2.0, 3.0])[0].remarks() == []
