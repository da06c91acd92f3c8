"""Stage costs: what is refused, and what is filled in."""

import numpy as np
import pytest

from shardwright.base.errors import SpecError
from shardwright.costmodel.pipeline.action import parse_work
from shardwright.costmodel.pipeline.stage_costs import StageCosts


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pp": 3}, "forward costs of 4 stages for pp 3: give a multiple of pp stages"),
        ({"pp": 0}, "pp of 1 or more"),
        ({"backward": [1, 1, -1, 1]}, "'backward' must be 0 or more seconds and finite, not"),
        ({"send": [0, np.nan, 0]}, "'send' must be 0 or more seconds and finite"),
        ({"optimizer": np.inf}, "'optimizer' must be 0 or more seconds and finite, not inf"),
        ({"send": [0, 0, 0, 0]}, "send needs 3 entries, optimizer 4"),
        ({"optimizer": [0, 0]}, "do not fit together"),
        ({"forward": 1.0}, "forward costs of 0 stages"),
        ({"weight_gradient": [0, 1.001, 0, 0]}, "'weight_gradient' is 1.001 seconds and the backward"),
        ({"weight_gradient": [0, 2, 0, 0]}, "'weight_gradient' is 2.0 seconds and the backward that it is part of 1.0"),
        (
            {"overlap_saving": [3, 0, 0, 0]},
            "'overlap_saving' is 3.0 seconds and the two passes that it is saved on 2.0",
        ),
    ],
)
def test_costs_that_make_no_sense_are_refused(changed: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"pp": 4, "forward": np.ones(4), "backward": np.ones(4)} | changed
    with pytest.raises(SpecError) as caught:
        StageCosts(**given)  # type: ignore[arg-type]  # some are wrong on purpose
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scalars_and_missing_batch_axes_are_filled_in() -> None:
    costs = StageCosts(pp=2, forward=np.ones((3, 4)), backward=2.0, send=[1, 2, 3], optimizer=[[5], [6], [7]])
    assert costs.batch_shape == (3,)
    assert (costs.stages, costs.stages_per_rank) == (4, 2)
    assert costs.backward.tolist() == [[2.0] * 4] * 3
    assert costs.send.tolist() == [[1, 2, 3]] * 3
    assert costs.optimizer.tolist() == [[5, 5], [6, 6], [7, 7]]
    assert costs.reduce_tail.tolist() == [[0.0] * 4] * 3


def test_a_plan_of_an_array_of_plans_has_its_own_costs() -> None:
    costs = StageCosts(pp=2, forward=np.arange(12.0).reshape(3, 4), backward=1.0, optimizer=[[1, 2], [3, 4], [5, 6]])
    one = costs[1]
    assert one.batch_shape == ()
    assert one.forward.tolist() == [4, 5, 6, 7]
    assert one.optimizer.tolist() == [3, 4]


def test_work_takes_the_seconds_of_its_passes() -> None:
    costs = StageCosts(
        pp=2,
        forward=[1, 2, 3, 4],
        backward=[10, 20, 30, 40],
        weight_gradient=[5, 6, 7, 8],
        overlap_saving=[0.5, 0, 0, 0.25],
    )
    seconds = {text: float(costs.seconds(parse_work(text))) for text in ("2F7", "2B7", "2I7", "2W7")}
    assert seconds == {"2F7": 3, "2B7": 30, "2I7": 23, "2W7": 7}
    assert float(costs.seconds(parse_work("(0F3;3B1)OVERLAP_F_B"))) == 1 + 40 - 0.5
    assert float(costs.seconds(parse_work("(3F3;0B1)OVERLAP_F_B"))) == 4 + 10 - 0.25


def test_costs_cannot_be_changed_through_the_arrays_they_were_made_from() -> None:
    given = np.ones(2)
    costs = StageCosts(pp=2, forward=given, backward=given)
    given[0] = 7
    assert costs.forward.tolist() == [1, 1]
    with pytest.raises(ValueError, match="read-only"):
        costs.forward[0] = 7


def test_a_part_may_pass_its_whole_by_rounding() -> None:
    more = np.nextafter(1.0, 2.0)
    costs = StageCosts(pp=2, forward=[1, 1], backward=[1, 1], weight_gradient=[more, 0])
    assert costs.weight_gradient[0] == more
