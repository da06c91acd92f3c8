"""Sums and maxima over the rows that stages hold, by hand."""

import numpy as np
import pytest

from shardwright.costmodel.tables.rows import RowCosts, Rows, ends_of, stage_seconds

# two layer classes, embedding, head; three policies
PLAIN = Rows.of(np.array([1.0, 10.0, 100.0, 1000.0]))
BY_POLICY = Rows.by_policy(np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [100.0, 9.0, 9.0], [1000.0, 9.0, 9.0]]))
MIXES = np.array([[[1, 0, 1], [0, 0, 0]], [[0, 0, 0], [2, 1, 0]]])  # stages, classes, policies


def test_first_and_last_stand_for_the_rows_behind_the_layers() -> None:
    assert (PLAIN.layers.tolist(), float(PLAIN.first), float(PLAIN.last)) == ([1.0, 10.0], 100.0, 1000.0)
    assert (float(BY_POLICY.first), float(BY_POLICY.last)) == (100.0, 1000.0)


def test_a_total_counts_layers_and_the_ends_that_a_stage_holds() -> None:
    assert PLAIN.total(MIXES.sum(axis=-1), ends_of(2)).tolist() == [102.0, 1030.0]
    assert BY_POLICY.total(MIXES, ends_of(2)).tolist() == [1 + 3 + 100.0, 20 + 20 + 1000.0]
    assert PLAIN.total(MIXES.sum(axis=(0, -1)), np.ones(2)) == 2 + 30 + 1100.0


def test_the_largest_is_of_what_is_held() -> None:
    no_ends = np.zeros((2, 2))
    assert PLAIN.largest(MIXES.sum(axis=-1), no_ends).tolist() == [1.0, 10.0]
    assert BY_POLICY.largest(MIXES, no_ends).tolist() == [3.0, 20.0]
    assert BY_POLICY.largest(MIXES, ends_of(2)).tolist() == [100.0, 1000.0]


def test_candidates_lead_and_stages_follow() -> None:
    two = Rows(np.stack([BY_POLICY.layers, 2 * BY_POLICY.layers]), np.array([100.0, 200.0]), np.array([1000.0, 2000.0]))
    assert two[:, None].total(MIXES, ends_of(2)).tolist() == [[104.0, 1040.0], [208.0, 2080.0]]


def test_stages_of_one_rank_send_nothing_to_each_other_and_weight_gradients_are_priced() -> None:
    """ZB-V places stages 0 to 3 on ranks 0, 1, 1, 0."""
    costs = RowCosts(
        **{
            name: PLAIN
            for name in ("forward", "weight_gradient", "first_forward", "optimizer", "static", "step", "host", "nvme")
        },
        **{name: PLAIN for name in ("gather_window", "reduce_buffer", "step_window")},
        **{name: BY_POLICY for name in ("backward", "last_backward", "activation", "working")},
        send=np.array(7.0),
        slack=np.array(0.0),
    )
    mixes = np.ones((4, 2, 3), dtype=np.int64)
    stages = stage_seconds(costs, mixes, ends_of(4)).costs("zb-v", 2, costs.send[..., None])
    assert stages.send.tolist() == [7.0, 0.0, 7.0]
    assert stages.weight_gradient.tolist() == [133.0, 33.0, 33.0, 1033.0]
    assert stages.optimizer == pytest.approx(np.array([133.0 + 1033.0, 66.0]))
