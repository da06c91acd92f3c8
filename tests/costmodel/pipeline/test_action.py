"""Actions and overlapped pairs as text."""

import pytest

from shardwright.base.errors import SpecError
from shardwright.costmodel.pipeline.action import Action, ActionKind, Overlap, parse_work


@pytest.mark.parametrize("text", ["", "2F", "F0", "2X0", "2F0 ", "-1F0", "2f0", "٢F0", "1F0B"])
def test_what_is_not_an_action_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="is not an action: give stage, kind and microbatch as in 2F0") as caught:
        parse_work(text)
    assert "F (forward), B (backward), I (input gradient), W (weight gradient)" in str(caught.value)


@pytest.mark.parametrize("text", ["(0F5;3I2)OVERLAP_F_B", "(3B2;0F5)OVERLAP_F_B", "(0F5)OVERLAP_F_B", "(0F5;3B2)"])
def test_what_is_not_an_overlapped_pair_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="is not an overlapped pair: give a forward and a backward as in"):
        parse_work(text)


def test_an_action_inside_a_pair_that_is_none_is_named() -> None:
    with pytest.raises(SpecError, match="'3Q2' is not an action"):
        parse_work("(0F5;3Q2)OVERLAP_F_B")


def test_work_of_all_microbatches_has_one_form() -> None:
    forward, backward = Action(0, ActionKind.FORWARD, 5), Action(3, ActionKind.BACKWARD, 2)
    pair = Overlap(forward, backward)
    assert parse_work("(0F5;3B2)OVERLAP_F_B") == pair
    assert str(pair.of_microbatch_zero()) == "(0F0;3B0)OVERLAP_F_B"
    assert forward.of_microbatch_zero() == Action(0, ActionKind.FORWARD, 0)
