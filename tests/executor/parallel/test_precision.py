import math
import random

import pytest
import torch

from shardwright.base.errors import SpecError
from shardwright.executor.parallel import precision
from shardwright.executor.parallel.precision import LossScale, check_precision
from shardwright.specs.training import Precision


def test_tf32_without_a_gpu_is_refused() -> None:
    with pytest.raises(SpecError, match="needs a CUDA"):
        check_precision(Precision(compute="tf32"), torch.device("cpu"))


@pytest.mark.parametrize("compute", ["bf16", "fp16", "fp32"])
def test_others_are_taken(compute: str) -> None:
    check_precision(Precision.model_validate({"compute": compute}), torch.device("cpu"))


class TestLossScale:
    def test_starts_as_grad_scaler(self) -> None:
        scaler = torch.amp.GradScaler("cpu")
        assert LossScale().value == scaler.get_scale()
        assert scaler.get_growth_factor() == precision._GROWTH
        assert scaler.get_backoff_factor() == precision._BACKOFF
        assert scaler.get_growth_interval() == precision._GROWTH_STEPS

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
    def test_moves_as_grad_scaler(self, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(precision, "_GROWTH_STEPS", 3)
        draw, own = random.Random(4), LossScale()
        scaler = torch.amp.GradScaler("cpu", growth_interval=3)
        parameter = torch.nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([parameter], lr=0.0)
        scaler.scale(torch.ones(1))  # makes its scale
        for _ in range(60):
            finite = draw.random() >= share
            parameter.grad = torch.tensor([1.0 if finite else math.inf])
            scaler.step(optimizer)
            scaler.update()
            own = own.after(finite=finite)
            assert own.value == scaler.get_scale()
            assert own.good_steps == scaler.state_dict()["_growth_tracker"]

    def test_does_not_grow_without_end(self) -> None:
        largest = LossScale(value=precision._LARGEST, good_steps=precision._GROWTH_STEPS - 1)
        assert largest.after(finite=True).value == precision._LARGEST
