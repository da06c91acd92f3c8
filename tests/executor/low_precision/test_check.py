"""Where linears in 8 bits are refused, and which layers keep the compute format."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from shardwright.base import SpecError
from shardwright.executor.can_run import check_can_run
from shardwright.executor.low_precision import check_linear_precision, scales_layer
from shardwright.executor.low_precision.linears import Scaling
from shardwright.specs.training import Precision
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.families import FAMILIES, OTHERS, UNDIVIDED

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


@pytest.mark.parametrize(
    ("family", "kept"),
    [
        ("mixtral", set()),
        ("qwen2_moe", {"mlp.shared_expert_gate"}),
        ("longcat_flash", {"mlp.router.classifier"}),
        ("phimoe", {"mlp.router"}),
        ("llama4_text", {"feed_forward.router"}),
    ],
)
def test_what_chooses_and_weighs_experts_keeps_the_compute_format(family: str, kept: set[str]) -> None:
    config = (FAMILIES | OTHERS | UNDIVIDED)[family]
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))  # type: ignore[no-untyped-call]
    layer = model.model.layers[-1]
    Scaling([]).over(layer)
    linears = {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    assert {name for name, module in linears.items() if "forward" not in vars(module)} == kept
    assert len(linears) > len(kept)


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
