"""What nvidia-smi shows beside tensors, from two runs of one job."""

import pytest

from shardwright.calibration.device_readings import TwoReadings, splits
from tests.validation.made_up_rows import row

GB = 1e9


def run(micro_batch: int, passes: float, gap: float, stack: str = "hf-trainer", **changes: object) -> TwoReadings:
    """10 GB are held over the step."""
    notes = "framework_config=accelerated; LoRA r=16"
    given = row(**{"model": "Llama-2-7B", "gpus": 1, "micro_batch": micro_batch, "notes": notes} | changes)
    allocated = 10 * GB + passes
    return TwoReadings(given, stack, allocated, allocated + gap, 10 * GB, allocated)


def test_two_micro_batches_tell_the_fixed_part_from_the_share() -> None:
    """Gaps of 4 and 6 GB beside passes of 10 and 20: 2 GB whatever the batch, and a fifth of the passes."""
    (found,) = splits([run(8, 20 * GB, 6 * GB), run(4, 10 * GB, 4 * GB)], "hf-trainer")
    assert (found.fixed, found.share) == pytest.approx((2 * GB, 0.2))


@pytest.mark.parametrize(
    "other",
    [
        run(4, 20 * GB, 6 * GB),
        run(8, 20 * GB, 6 * GB, gpus=2),
        run(8, 20 * GB, 6 * GB, stack="hf-fast-kernels"),
        run(8, 20 * GB, 6 * GB, model="Mistral-7B"),
        run(8, 20 * GB, 6 * GB, notes="framework_config=baseline; LoRA r=16"),
        run(8, 20 * GB, 6 * GB, notes="framework_config=accelerated; full fine-tune"),
    ],
)
def test_other_jobs_are_no_pair(other: TwoReadings) -> None:
    assert splits([run(4, 10 * GB, 4 * GB), other], "hf-trainer") == []


def test_an_error_is_of_what_was_shown() -> None:
    assert run(4, 10 * GB, 5 * GB).error == pytest.approx(20 / 25 - 1)
