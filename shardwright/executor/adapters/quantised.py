"""Frozen linears in NF4: packed by bitsandbytes, and restored in the compute format for each use (QLoRA, Dettmers et al. 2023,
arXiv 2305.14314, section 3)."""

import math
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import linear

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.executor.model import Skeleton
from shardwright.specs import Trainable

from .layer import adapted_linears

_BLOCK, _BLOCKS_TOGETHER = 64, 256
"""Weights with one scale in 8 bits, and such scales with one in fp32: bitsandbytes' double quantisation."""
_EXTRA, _FIRST_CAPABILITY = "quantized", (6, 0)
"""Of pyproject.toml; and of GPUs for 4 bits in bitsandbytes' table of features."""
_ALL_LINEARS = Trainable(kind="lora", rank=1, targets=("all-linear",))


def check_quantised(plan_file: PlanFile, skeleton: Skeleton) -> None:
    """Check that all linears of the layers can lie in NF4, and that the package which packs them is here.

    Raises:
        SpecError: they cannot, or it is not; names the module, or says how to get the package.
    """
    trainable = plan_file.training.trainable
    if trainable.base != "nf4":
        return
    plain = trainable.model_copy(update={"base": "compute"})
    for path, module in adapted_linears(skeleton.layer(0), _ALL_LINEARS).items():
        if not isinstance(module, nn.Linear):
            raise SpecError(
                f"{skeleton.name}: '{path}' of a layer is several linears in one weight, which does not lie in nf4; plan with "
                f"--trainable {plain}"
            )
    if find_spec("bitsandbytes") is None:
        raise SpecError(
            f"frozen weights in nf4 are packed by bitsandbytes, which is not installed; pip install '.[{_EXTRA}]', or plan with "
            f"--trainable {plain}"
        )


def check_quantised_device(trainable: Trainable, device: torch.device) -> None:
    """Check that the device restores weights from NF4.

    Raises:
        SpecError: it does not.
    """
    if trainable.base != "nf4" or device.type != "cuda":
        return
    found = torch.cuda.get_device_capability(device)
    if found < _FIRST_CAPABILITY:
        has, needs = (".".join(map(str, pair)) for pair in (found, _FIRST_CAPABILITY))
        raise SpecError(
            f"frozen weights in nf4 need a GPU of compute capability {needs}, this one has {has}; plan with lora"
        )


def quantise(layer: nn.Module) -> None:
    """Hold the weights of a layer's frozen linears in NF4: one parameter of bytes each, which data parallelism shards as others."""
    for module in adapted_linears(layer, _ALL_LINEARS).values():
        assert isinstance(module, nn.Linear), "the plan was checked"
        _quantise_linear(module)


def _quantise_linear(module: nn.Linear) -> None:
    shape, dtype = module.weight.shape, module.weight.dtype
    module.register_parameter("weight", nn.Parameter(packed(module.weight.detach()), requires_grad=False))

    def forward(hidden: Tensor) -> Tensor:
        output: Tensor = _Restored.apply(hidden, module.weight, module.bias, shape, dtype)  # type: ignore[no-untyped-call]  # torch's
        return output

    own: Any = module
    own.forward = forward


def packed_sizes(elements: int) -> list[int]:
    """Bytes of fp32 scales with their mean, of 8-bit scales, and of weights, in the order in which they are stored."""
    scales = math.ceil(elements / _BLOCK)
    return [4 * math.ceil(scales / _BLOCKS_TOGETHER) + 4, scales, math.ceil(elements / 2)]


def packed(weight: Tensor) -> Tensor:
    """Return a weight in NF4 with its scales, as bytes; what bitsandbytes' `quantize_4bit` makes of it, one part after another."""
    if isinstance(weight, FakeTensor):  # of a dry run: the size alone
        return weight.new_empty(sum(packed_sizes(weight.numel())), dtype=torch.uint8)
    from bitsandbytes import functional  # an optional package

    elements, state = functional.quantize_4bit(
        weight.contiguous(), blocksize=_BLOCK, compress_statistics=True, quant_type="nf4"
    )
    means = torch.cat([state.state2.absmax.float(), state.offset.float().reshape(1)])
    return torch.cat([part.flatten().contiguous().view(torch.uint8) for part in (means, state.absmax, elements)])


def restored(stored: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Invert `packed`, with what it lost: the weight of `shape` in `dtype`."""
    if isinstance(stored, FakeTensor):
        return stored.new_empty(shape, dtype=dtype)
    from bitsandbytes import functional  # as above

    means, scales, elements = torch.split(stored, packed_sizes(shape.numel()))
    means = means.clone().view(torch.float32)  # whose place in memory may be no multiple of 4
    inner = functional.QuantState(
        absmax=means[:-1], code=_code(stored.device), blocksize=_BLOCKS_TOGETHER, dtype=torch.float32
    )
    state = functional.QuantState(
        absmax=scales, shape=shape, dtype=dtype, blocksize=_BLOCK, quant_type="nf4", offset=means[-1], state2=inner
    )
    whole: Tensor = functional.dequantize_4bit(elements[:, None], state)
    return whole


@cache
def _code(device: torch.device) -> Tensor:
    """The values of 8-bit scales."""
    from bitsandbytes import functional  # as above

    values: Tensor = functional.create_dynamic_map().to(device)
    return values


class _Restored(torch.autograd.Function):
    """A linear whose weight is restored for the forward pass and again for the gradient of the input, and kept in between as bytes
    (bitsandbytes, autograd/_functions.py, MatMul4Bit)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, stored: Tensor, bias: Tensor | None, shape: torch.Size, dtype: torch.dtype
    ) -> Tensor:
        # what is saved as others are would be saved behind the matmul, so that a layer which runs again could not stop before it
        ctx.stored, ctx.shape, ctx.dtype = stored, shape, dtype
        return linear(hidden, restored(stored, shape, dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None, None]:
        return gradients[0] @ restored(ctx.stored, ctx.shape, ctx.dtype), None, None, None, None
