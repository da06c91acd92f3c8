"""Linears in 8 bits on one rank: torchao's, to the bit, and padded where the sizes are not those of the kernels."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from shardwright.executor.low_precision import Scaling, scaled_linear


def _trained(model: nn.Module, dtype: torch.dtype) -> list[torch.Tensor]:
    """The output, and the gradients of input and parameters."""
    hidden = torch.arange(2 * 8 * 32).sin().view(2, 8, 32).to(dtype).requires_grad_()
    output = model(hidden)
    torch.autograd.backward(output.square().sum())
    return [output, hidden.grad, *(parameter.grad for parameter in model.parameters())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_are_those_of_torchao_to_the_bit(dtype: torch.dtype) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        float8: Any = pytest.importorskip("torchao.float8")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 16)).to(dtype)
    theirs = float8.convert_to_float8_training(copy.deepcopy(model))
    plain = copy.deepcopy(model)
    Scaling(()).over(model)
    own = _trained(model, dtype)
    assert all(torch.equal(one, other) for one, other in zip(own, _trained(theirs, dtype), strict=True))
    assert not torch.equal(own[0], _trained(plain, dtype)[0])


@pytest.mark.parametrize("inputs", [16, 20])
@pytest.mark.parametrize("outputs", [16, 7])
def test_sizes_are_filled_up_with_zeros(inputs: int, outputs: int) -> None:
    """Powers of two lose nothing in 8 bits, so that results are exact."""
    hidden = (2.0 ** torch.randint(-2, 3, (3, 5, inputs))).requires_grad_()
    weight = (2.0 ** torch.randint(-2, 3, (outputs, inputs))).requires_grad_()
    hidden.data[0, 0, 0] = weight.data[0, 0] = 448.0  # the scale is one
    product = scaled_linear(hidden, weight, ())
    assert torch.equal(product, hidden @ weight.T)
    gradient = torch.full_like(product, 57344.0)
    torch.autograd.backward(product, gradient)
    assert torch.equal(hidden.grad, gradient @ weight)  # type: ignore[arg-type]
    assert torch.equal(weight.grad, torch.einsum("bso,bsi->oi", gradient, hidden))  # type: ignore[arg-type]


def test_a_frozen_weight_has_no_gradient_and_zeros_stay_zeros() -> None:
    hidden, weight = torch.zeros(2, 16, requires_grad=True), torch.ones(16, 16)
    torch.autograd.backward(scaled_linear(hidden, weight, ()).sum())
    assert weight.grad is None
    assert torch.equal(hidden.grad, torch.full((2, 16), 16.0))  # type: ignore[arg-type]


def test_transposed_weights_compute_the_same() -> None:
    build: Any = Conv1D
    linear, turned = nn.Linear(32, 16), build(16, 32)
    with torch.no_grad():
        turned.weight.copy_(linear.weight.T)
        turned.bias.copy_(linear.bias)
    for module in (linear, turned):
        Scaling(()).over(module)
    hidden = torch.randn(4, 32)
    assert torch.equal(linear(hidden), turned(hidden))
