import pytest
import torch

from shardwright.base.errors import SpecError
from shardwright.executor.parallel.precision import check_precision
from shardwright.specs.training import Precision


@pytest.mark.parametrize(("compute", "expected"), [("fp16", "no loss scaling.*give bf16"), ("tf32", "needs a CUDA")])
def test_formats_it_cannot_train_in_are_refused(compute: str, expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        check_precision(Precision.model_validate({"compute": compute}), torch.device("cpu"))


def test_bf16_and_fp32_are_taken() -> None:
    for compute in ("bf16", "fp32"):
        check_precision(Precision.model_validate({"compute": compute}), torch.device("cpu"))
