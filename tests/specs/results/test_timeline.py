"""The timeline: its idle shares."""

import numpy as np
import pytest

from shardwright.costmodel.pipeline.schedule import make_schedule
from shardwright.costmodel.pipeline.simulation import simulate
from shardwright.costmodel.pipeline.stage_costs import StageCosts
from shardwright.specs.results.timeline import MemoryCurve, Span, Timeline

TIMELINE = Timeline(
    pp=2,
    spans=(
        Span(0, "compute", "0F0", 0.0, 1.5, stage=0, microbatch=0),
        Span(0, "pipeline send", "send 0F0", 1.5, 2.0, stage=0, microbatch=0),
        Span(1, "compute", "1F0", 2.0, 3.0, stage=1, microbatch=0),
        Span(1, "optimizer", "optimizer", 3.0, 4.0),
    ),
    memory=(
        MemoryCurve(np.array([0.0, 1.5]), np.array([10.0, 20.0])),
        MemoryCurve(np.array([0.0]), np.array([5.0])),
    ),
)


def test_a_rank_is_idle_while_it_neither_computes_nor_updates() -> None:
    assert TIMELINE.step_seconds == 4
    assert TIMELINE.idle_fractions().tolist() == [1 - 1.5 / 4, 0.5]


def test_a_step_of_no_time_is_not_idle() -> None:
    assert Timeline(pp=1, spans=(), memory=()).idle_fractions().tolist() == [0]


def test_the_idle_share_of_a_uniform_pipeline_is_the_textbook_bubble() -> None:
    """(P - 1) / (M + P - 1): Huang et al. 2019 (arXiv 1811.06965), section 2.3."""
    costs = StageCosts(pp=4, forward=np.ones(4), backward=np.ones(4) * 2)
    assert simulate(make_schedule("gpipe", 4, 1, 8), costs).idle_fractions() == pytest.approx([3 / 11] * 4)
