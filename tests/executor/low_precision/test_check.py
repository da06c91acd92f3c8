"""Where linears in 8 bits are refused, and which layers keep the compute format."""

from typing import Any

import pytest
import torch

from shardwright.base import SpecError
from shardwright.executor.can_run import check_can_run
from shardwright.executor.low_precision import check_linear_precision, scales_layer
from shardwright.specs.training import Precision
from tests.parity.cases import layers, model_config, plan, plan_file

_LOW = Precision(linear="fp8")


def test_a_gpu_without_the_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, refused in (((8, 0), True), ((8, 9), False), ((9, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device, given=capability: given)
        if not refused:
            check_linear_precision(_LOW, torch.device("cuda"))
            continue
        check_linear_precision(Precision(), torch.device("cuda"))
        with pytest.raises(SpecError, match=r"linears in fp8 need a GPU of compute capability 8\.9, this one has 8\.0"):
            check_linear_precision(_LOW, torch.device("cuda"))
    check_linear_precision(_LOW, torch.device("cpu"))


@pytest.mark.parametrize(
    ("config", "precision", "words"),
    [
        (
            model_config("llama"),
            {"linear": "nvfp4"},
            "linear precision nvfp4 can be estimated and compared, not run yet",
        ),
        (model_config("llama"), {"linear": "fp8", "gather": "fp8"}, "gathers in fp8 can be estimated"),
    ],
)
def test_formats_that_do_not_run_are_refused(config: dict[str, Any], precision: dict[str, Any], words: str) -> None:
    given = plan_file(config, plan((layers(),)))
    training = given.training.model_copy(update={"precision": Precision(compute="fp32", **precision)})
    with pytest.raises(SpecError, match=words) as refused:
        check_can_run(given.model_copy(update={"training": training}))
    assert "\n" not in str(refused.value)


def test_the_first_and_the_last_layers_keep_the_compute_format() -> None:
    def kept(count: int) -> list[int]:
        return [index for index in range(6) if not scales_layer(index, 6, count)]

    assert [kept(count) for count in (0, 1, 2, 3, 6, 9)] == [
        [],
        [0],
        [0, 5],
        [0, 1, 5],
        [0, 1, 2, 3, 4, 5],
        [0, 1, 2, 3, 4, 5],
    ]
