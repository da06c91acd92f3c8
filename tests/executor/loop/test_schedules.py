import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import optimization as theirs

from shardwright.executor.loop.schedules import learning_rate_at
from shardwright.executor.options import RunOptions, Schedule


def options(**given: Any) -> RunOptions:
    return RunOptions(out=Path("run"), **given)


class TestLearningRate:
    def test_golden_schedule(self) -> None:
        """Two warm-up steps, then four along the cosine to a tenth of the peak."""
        run = options(steps=6, warmup_steps=2, learning_rate=1.0, min_learning_rate_fraction=0.1)
        rates = [learning_rate_at(step, run) for step in range(1, 7)]
        root = math.sqrt(0.5)
        assert rates == pytest.approx([0.5, 1.0, 0.55 + 0.45 * root, 0.55, 0.55 - 0.45 * root, 0.1])

    def test_without_warm_up_it_begins_on_the_cosine(self) -> None:
        run = options(steps=2, warmup_steps=0, learning_rate=1.0, min_learning_rate_fraction=0.0)
        assert [learning_rate_at(step, run) for step in (1, 2)] == pytest.approx([0.5, 0.0])

    def test_all_warm_up(self) -> None:
        run = options(steps=4, warmup_steps=4, learning_rate=1.0)
        assert [learning_rate_at(step, run) for step in range(1, 5)] == pytest.approx([0.25, 0.5, 0.75, 1.0])

    @given(st.integers(1, 60).flatmap(lambda steps: st.tuples(st.just(steps), st.integers(0, steps))))
    def test_rises_to_the_peak_then_falls_to_the_floor(self, shape: tuple[int, int]) -> None:
        steps, warmup = shape
        run = options(steps=steps, warmup_steps=warmup, learning_rate=2.0, min_learning_rate_fraction=0.25)
        rates = [learning_rate_at(step, run) for step in range(1, steps + 1)]
        assert rates[:warmup] == sorted(rates[:warmup])
        assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
        assert all(0 < rate <= 2.0 for rate in rates)
        assert rates[-1] == pytest.approx(2.0 if warmup == steps else 0.5)


class TestTransformers:
    """Each schedule is transformers', of the step before and without warm-up from zero."""

    @pytest.mark.parametrize("floor", [0.0, 0.25])
    @pytest.mark.parametrize(("steps", "warmup", "decay"), [(40, 5, 10), (7, 0, 3), (12, 2, 10)])
    @pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
    def test_the_same_rates(self, schedule: Schedule, steps: int, warmup: int, decay: int, floor: float) -> None:
        run = options(
            steps=steps,
            warmup_steps=warmup,
            schedule=schedule,
            learning_rate=2.0,
            min_learning_rate_fraction=floor,
            **({"decay_steps": decay} if schedule == "wsd" else {}),
        )
        if schedule in ("linear", "constant") and floor:
            pytest.skip("transformers' have no floor")
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
        made: Any = {
            "cosine": lambda: theirs.get_cosine_with_min_lr_schedule_with_warmup(
                optimizer, warmup, steps, min_lr_rate=floor
            ),
            "linear": lambda: theirs.get_linear_schedule_with_warmup(optimizer, warmup, steps),  # type: ignore[no-untyped-call]  # theirs
            "constant": lambda: theirs.get_constant_schedule_with_warmup(optimizer, warmup),
            "wsd": lambda: theirs.get_wsd_schedule(
                optimizer, warmup, decay, num_training_steps=steps, decay_type="linear", min_lr_ratio=floor
            ),
        }[schedule]()
        rates = [2.0 * made.lr_lambdas[0](step) for step in range(warmup, steps + 1)]  # theirs counts from 0
        ours = [learning_rate_at(step, run) for step in range(max(warmup, 1), steps + 1)]
        assert ours == pytest.approx(rates[max(1 - warmup, 0) :], abs=1e-12)

    def test_a_floor_of_the_straight_line(self) -> None:
        run = options(steps=4, warmup_steps=0, schedule="linear", learning_rate=1.0, min_learning_rate_fraction=0.2)
        assert [learning_rate_at(step, run) for step in range(1, 5)] == pytest.approx([0.8, 0.6, 0.4, 0.2])

    def test_the_last_tenth_decays_if_nothing_is_said(self) -> None:
        run = options(steps=20, warmup_steps=0, schedule="wsd", learning_rate=1.0, min_learning_rate_fraction=0.0)
        assert [learning_rate_at(step, run) for step in (17, 18, 19, 20)] == pytest.approx([1.0, 1.0, 0.5, 0.0])
