from shardwright.executor.loop.early_warning import EarlyWarning
from shardwright.specs.results.estimate import Estimate, Interval, MemoryBytes, StepSeconds

PARTS = {"data": 0.0, "forward_backward": 1.5, "optimizer": 0.5}


def estimate() -> Estimate:
    seconds = dict.fromkeys(StepSeconds.model_fields, 0.0) | {"compute": 1.5, "optimizer": 0.5}
    return Estimate(
        step=StepSeconds(**seconds),
        step_seconds_intervals=(Interval(level=0.5, low=1.9, high=2.1), Interval(level=0.8, low=1.0, high=3.0)),
        memory=(MemoryBytes(**dict.fromkeys(MemoryBytes.model_fields, 1.0)),),
        host_bytes=(0.0,),
        tokens_per_s=1.0,
        model_flops=1.0,
        hardware_flops=1.0,
        mfu=0.5,
        hfu=0.5,
        device_count=1,
        basis="catalog",
    )


def warnings(seconds: list[float], *, warmup_steps: int = 0, slow: str = "optimizer") -> list[tuple[int, str]]:
    warning = EarlyWarning(estimate(), warmup_steps=warmup_steps)
    told = []
    for step, each in enumerate(seconds, 1):
        said = warning.after(step, each, {**PARTS, slow: PARTS[slow] + each - 2})
        if said:
            told.append((step, said))
    return told


def test_inside_the_widest_interval_there_is_none() -> None:
    assert warnings([2.0, 2.9, 1.1, 2.0, 2.9, 2.9, 2.9, 2.9]) == []


def test_outside_it_there_is_one_with_the_part_that_is_off() -> None:
    assert warnings([4.0] * 12) == [
        (
            5,
            "step 5: steps take 4.00 s, and 1.00 s to 3.00 s were predicted (80%); most of it is optimizer: 2.50 s for 500 ms",
        )
    ]
    assert warnings([4.0] * 5, slow="data")[0][1].endswith("most of it is data: 2.00 s for 0 s")


def test_first_steps_and_single_slow_ones_do_not_count() -> None:
    assert warnings([9.0, 9.0, 9.0, 2.0, 2.0, 2.0, 2.0, 2.0], warmup_steps=3) == []
    assert warnings([2.0, 9.0, 2.0, 2.0, 9.0, 2.0, 2.0]) == []


def test_it_comes_again_after_the_steps_were_inside() -> None:
    assert [step for step, _ in warnings([4.0] * 6 + [2.0] * 6 + [4.0] * 6)] == [5, 15]


def test_without_an_interval_there_is_none() -> None:
    bare = estimate().model_copy(update={"step_seconds_intervals": ()})
    warning = EarlyWarning(bare, warmup_steps=0)
    assert [warning.after(step, 99.0, PARTS) for step in range(9)] == [None] * 9
