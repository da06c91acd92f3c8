"""The compute probes of a profile, most important first."""

import importlib.util
from collections.abc import Iterable, Sequence
from typing import get_args

import torch

from shardwright.base import usable_cores
from shardwright.costmodel.op_times import MatmulPart, Operator
from shardwright.profiler.sizes import (
    Linear,
    Usage,
    family_attention,
    family_experts,
    family_latent_attention,
    family_linears,
    family_operator,
    model_first,
    spread_first,
)
from shardwright.profiler.timing import FigureProbe, Machine, Probe, Sizes
from shardwright.specs import Format

from .attention import FLASH_3_MODULE, AttentionProbe, Backend
from .cast import CAST_FORMATS, CAST_MULTIPLE, CastProbe
from .grouped_matmul import GroupedMatmulProbe, LoopedMatmulProbe
from .launch import DispatchProbe, LaunchProbe, LayerOverheadProbe
from .matmul import MatmulProbe
from .operator import OperatorProbe
from .operator_work import BACKWARD_APART, FORWARD
from .optimizer import ClipProbe, HostAdamWProbe, OptimizerProbe, family_host, family_parameters

_PARTS: tuple[MatmulPart, ...] = get_args(MatmulPart)
# On a CPU torch has one kernel of its own and the plain formula.
_NAMED_BACKENDS: dict[str, tuple[Backend, ...]] = {"cpu": ("math",), "cuda": ("flash", "efficient", "cudnn", "math")}
# The kernels that training software uses, and plans read.
_TRAINING_BACKENDS: tuple[Backend, ...] = ("flash", "cudnn", "flash3")
_FEW = 6  # number of sizes of a variant that is only compared with the main one


def default_probes(machine: Machine, formats: Sequence[Format], usage: Usage | None = None) -> list[Probe]:
    """Return the compute probes of a profile of `machine`, in each of `formats`.

    With `usage` the sizes of that model come first in every series. Attention and the memory-bound operators exist in
    the formats of activations. An operation that a machine lacks raises `UnavailableError` when it is prepared.
    """
    device = machine.device
    activations = [each for each in formats if each in ("fp32", "bf16", "fp16")]
    return [
        *(probe for each in formats for probe in matmul_probes(device, each, usage)),
        *(probe for each in activations for probe in attention_probes(device, each, usage)),
        *(probe for each in activations for probe in operator_probes(device, each, usage)),
        *optimizer_probes(device, usage),
        *(probe for each in formats for probe in expert_probes(device, each, usage)),
        *(cast_probes(device, usage) if "fp8" in formats else ()),
        *(probe for each in activations for probe in attention_variants(device, each)),
        *(probe for each in activations for probe in latent_probes(device, each, usage)),
    ]


def default_figures() -> list[FigureProbe]:
    """Return the probes of single numbers of compute."""
    return [DispatchProbe(), LaunchProbe(), LayerOverheadProbe()]


def matmul_probes(device: torch.device, number_format: Format, usage: Usage | None = None) -> list[Probe]:
    """Return the three passes of linear layers; in fp8 also with one scale per row."""
    probes: list[Probe] = []
    for part in _PARTS:
        of_model = [] if usage is None else [each for each in usage.linears() if each.groups == 1]
        wanted = _sizes_of(part, of_model, family_linears(device.type))
        probes.append(MatmulProbe(part, number_format, wanted))
        if number_format == "fp8":
            probes.append(MatmulProbe(part, number_format, wanted[:_FEW], scales="row"))
    return probes


def expert_probes(device: torch.device, number_format: Format, usage: Usage | None = None) -> list[Probe]:
    """Return the matmuls of experts, in one kernel and in a loop.

    In 8 bits and in tf32 they are only measured in a loop: torch has at most the forward pass of one kernel. A CPU
    multiplies 8-bit numbers one by one, which no training does.
    """
    if number_format == "fp8" and device.type == "cpu":
        return []
    kinds: tuple[type[GroupedMatmulProbe | LoopedMatmulProbe], ...] = (GroupedMatmulProbe, LoopedMatmulProbe)
    if number_format in ("fp8", "tf32"):
        kinds = (LoopedMatmulProbe,)
    of_model = [] if usage is None else [each for each in usage.linears() if each.groups > 1]
    family = family_experts(device.type) if usage is None or of_model else []
    return [
        kind(part, number_format, _sizes_of(part, of_model, family, grouped=True))
        for kind in kinds
        for part in _PARTS
        if of_model or family
    ]


def cast_probes(device: torch.device, usage: Usage | None = None) -> list[Probe]:
    """Return casts of bf16 activations to the formats of 8-bit and 4-bit matmuls, compiled and in eager PyTorch."""
    of_model = (
        [] if usage is None else [(float(each.tokens * each.groups), float(each.inputs)) for each in usage.linears()]
    )
    whole = [at for at in of_model if at[1] % CAST_MULTIPLE == 0]
    wanted = tuple(model_first(whole, family_operator("copy", device.type, backward=False)))
    return [CastProbe(low, compiled, "bf16", wanted) for compiled in (True, False) for low in CAST_FORMATS]


def attention_probes(device: torch.device, number_format: Format, usage: Usage | None = None) -> list[Probe]:
    """Return causal attention, by the kernel that torch selects."""
    of_model = [] if usage is None else usage.attention()
    wanted = tuple(model_first(of_model, family_attention(device.type)))
    return [AttentionProbe(backward, number_format, wanted, device_type=device.type) for backward in (False, True)]


def attention_variants(device: torch.device, number_format: Format) -> list[Probe]:
    """Return other variants: by each named kernel, and without the causal mask. Those that plans do not read have a few
    sizes."""
    family = tuple(spread_first(family_attention(device.type)))
    few = family[:_FEW]
    probes: list[Probe] = []
    for backward in (False, True):
        probes.append(AttentionProbe(backward, number_format, few, causal=False, device_type=device.type))
        for backend in named_backends(device):
            wanted = family if backend in _TRAINING_BACKENDS else few
            probes.append(AttentionProbe(backward, number_format, wanted, backend=backend, device_type=device.type))
    return probes


def latent_probes(device: torch.device, number_format: Format, usage: Usage | None = None) -> list[Probe]:
    """Return latent attention, by torch's choice and by the kernels that train it; none where no model needs it."""
    of_model = [] if usage is None else usage.attention(latent=True)
    wanted = tuple(model_first(of_model, family_latent_attention(device.type)))
    named = [each for each in named_backends(device) if each in _TRAINING_BACKENDS and each != "flash"]
    return [
        AttentionProbe(backward, number_format, wanted, backend=backend, latent=True, device_type=device.type)
        for backward in (False, True)
        for backend in (None, *named)
        if wanted
    ]


def named_backends(device: torch.device) -> tuple[Backend, ...]:
    """Return the kernels that the device may have by name. FlashAttention-3 is one of them where it is installed."""
    installed = device.type == "cuda" and importlib.util.find_spec(FLASH_3_MODULE) is not None
    return (*_NAMED_BACKENDS[device.type], *(("flash3",) if installed else ()))


def operator_probes(device: torch.device, number_format: Format, usage: Usage | None = None) -> list[Probe]:
    """Return every memory-bound operator; those that the model uses come first."""
    used: list[Probe] = []
    others: list[Probe] = []
    for operator, backward in _passes():
        of_model = [] if usage is None else usage.operators(operator, backward=backward)
        wanted = tuple(model_first(of_model, family_operator(operator, device.type, backward=backward)))
        head_size = 64 if usage is None else usage.head_size
        probe = OperatorProbe(operator, backward, number_format, wanted, head_size=head_size)
        (used if of_model else others).append(probe)
    return [*used, *others]


def optimizer_probes(device: torch.device, usage: Usage | None = None) -> list[Probe]:
    """Return steps on the device, clipping, and steps on its host."""
    of_model = [] if usage is None else usage.parameters()
    wanted = tuple(model_first(of_model, family_parameters(device.type)))
    probes: list[Probe] = [OptimizerProbe("adamw", "fused", "fp32", wanted), ClipProbe("fp32", wanted)]
    probes += [OptimizerProbe("adamw", "foreach", "fp32", wanted), OptimizerProbe("sgd", "foreach", "fp32", wanted)]
    probes += [OptimizerProbe("adamw", "fused", "bf16", wanted), ClipProbe("bf16", wanted)]
    return [*probes, HostAdamWProbe(tuple(spread_first(family_host(usable_cores()))))]


def _passes() -> Iterable[tuple[Operator, bool]]:
    """Yield every operator that runs on its own, with its direction."""
    for operator in FORWARD:
        yield operator, False
        yield operator, True
    yield from ((operator, True) for operator in BACKWARD_APART if operator not in FORWARD)


def _sizes_of(
    part: MatmulPart, of_model: Iterable[Linear], family: Iterable[Linear], *, grouped: bool = False
) -> tuple[Sizes, ...]:
    def at(linear: Linear) -> Sizes:
        return (*linear.sizes(part), float(linear.groups)) if grouped else linear.sizes(part)

    return tuple(model_first(map(at, of_model), map(at, family)))
