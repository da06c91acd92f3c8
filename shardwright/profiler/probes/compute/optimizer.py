"""Optimizer steps and gradient clipping over lists of tensors like a model's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import psutil
import torch
from torch import Tensor, nn

from shardwright.profiler.sizes import size_between
from shardwright.profiler.timing import BYTES, Machine, Sizes, UnavailableError, Work, random_tensor, torch_dtype, tried
from shardwright.specs import Format, OptimizerName

Implementation = Literal["fused", "foreach"]
_CPU = torch.device("cpu")
_LARGEST_SHARE = 4  # the largest tensor, an embedding, holds one part in so many
_NORMS_OF_LAYER, _TENSORS_OF_LAYER = 2, 9
_WIDEST_NORM = 4096
_STEP_BYTES = 4.0  # step counter of each tensor
_WEIGHT_DECAY = 0.1
# Parameter, gradient and AdamW's two states. The foreach step also writes complete temporary lists.
_COPIES: dict[tuple[OptimizerName, Implementation], float] = {
    ("adamw", "fused"): 4.0,
    ("adamw", "foreach"): 7.0,
    ("sgd", "foreach"): 3.0,
}


def parameter_shapes(elements: int, tensors: int) -> list[tuple[int, ...]]:
    """Return shapes of `tensors` tensors of `elements` in all, as in a model.

    They are one large matrix, many equal ones, and two vectors (norms) for every seven of these.
    """
    if tensors == 1:
        return [(1, elements)]
    largest, others = elements // _LARGEST_SHARE, tensors - 1
    vectors = others * _NORMS_OF_LAYER // _TENSORS_OF_LAYER
    vector = min(_WIDEST_NORM, (elements - largest) // others)
    each, rest = divmod(elements - largest - vectors * vector, others - vectors)
    return [(1, largest + rest), *[(1, each)] * (others - vectors), *[(vector,)] * vectors]


def _parameters(at: Sizes, dtype: torch.dtype, device: torch.device) -> list[nn.Parameter]:
    """Return parameters with gradients."""
    parameters = []
    for shape in parameter_shapes(round(at[0]), round(at[1])):
        parameter = nn.Parameter(random_tensor(shape, dtype, device))
        parameter.grad = random_tensor(shape, dtype, device)
        parameters.append(parameter)
    return parameters


def _optimizer(
    name: OptimizerName, implementation: Implementation, parameters: Sequence[nn.Parameter]
) -> torch.optim.Optimizer:
    """Build it as the executor does: matrices decay, vectors do not, so they form separate groups."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": _WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=1e-4, foreach=True)
    chosen = {implementation: True}
    return torch.optim.AdamW(groups, lr=1e-4, **chosen)  # type: ignore[arg-type]  # named by a variable


def _list_between(one: Sizes, other: Sizes) -> Sizes | None:
    """Return the size between two, with no more tensors than elements can fill."""
    middle = size_between(one, other, (1024, 1))
    return middle if middle is None or middle[0] >= 64 * middle[1] else None


@dataclass(frozen=True)
class OptimizerProbe:
    """One step. Axes elements, tensors: parameters in all, and number of tensors. `format`: that of the parameters."""

    name: OptimizerName
    implementation: Implementation
    format: Format
    wanted: tuple[Sizes, ...]
    axes: tuple[str, ...] = ("elements", "tensors")

    @property
    def operation(self) -> str:
        return self.name

    @property
    def variant(self) -> str:
        return self.implementation

    def first_sizes(self) -> Sequence[Sizes]:
        return self.wanted

    def between(self, one: Sizes, other: Sizes) -> Sizes | None:
        return _list_between(one, other)

    def needed_bytes(self, at: Sizes) -> float:
        return _COPIES[self.name, self.implementation] * BYTES[self.format] * at[0] + _STEP_BYTES * at[1]

    def prepare(self, at: Sizes, machine: Machine) -> Work:
        dtype = torch_dtype(self.format, machine.device)

        def make() -> Work:
            return _optimizer(self.name, self.implementation, _parameters(at, dtype, machine.device)).step

        return tried(make, f"{self.implementation} {self.name} in {self.format}")


@dataclass(frozen=True)
class ClipProbe:
    """Norm and scaling of all gradients, as the executor clips them.

    Axes are those of `OptimizerProbe`. `format`: that of the gradients.
    """

    format: Format
    wanted: tuple[Sizes, ...]
    operation: str = "clip"
    variant: str = ""
    axes: tuple[str, ...] = ("elements", "tensors")

    def first_sizes(self) -> Sequence[Sizes]:
        return self.wanted

    def between(self, one: Sizes, other: Sizes) -> Sizes | None:
        return _list_between(one, other)

    def needed_bytes(self, at: Sizes) -> float:
        return 2.0 * BYTES[self.format] * at[0]

    def prepare(self, at: Sizes, machine: Machine) -> Work:
        dtype = torch_dtype(self.format, machine.device)

        def make() -> Work:
            shapes = parameter_shapes(round(at[0]), round(at[1]))
            return _clip([random_tensor(shape, dtype, machine.device) for shape in shapes])

        return tried(make, f"clipping in {self.format}")


def _clip(gradients: list[Tensor]) -> Work:
    def clip() -> object:
        norm = float(torch.nn.utils.get_total_norm(gradients).double().square().sqrt())
        # a factor of one keeps the values constant over the repeats; the kernels do the same work
        torch._foreach_mul_(gradients, 1.0)
        return norm

    return clip


@dataclass(frozen=True)
class HostAdamWProbe:
    """Fused AdamW on the host, for any device. Axes elements, threads."""

    wanted: tuple[Sizes, ...]
    format: Format = "fp32"
    operation: str = "host_adamw"
    variant: str = "fused"
    axes: tuple[str, ...] = ("elements", "threads")

    def first_sizes(self) -> Sequence[Sizes]:
        return self.wanted

    def between(self, one: Sizes, other: Sizes) -> Sizes | None:
        return size_between(one, other, (1024, 1))

    def needed_bytes(self, at: Sizes) -> float:
        """Return bytes of the host, which on a CPU is the device's own memory."""
        return _COPIES["adamw", "fused"] * BYTES[self.format] * at[0]

    def prepare(self, at: Sizes, machine: Machine) -> Work:
        elements, threads = (round(size) for size in at)
        free_bytes = float(psutil.virtual_memory().available)
        if self.needed_bytes(at) > free_bytes:
            raise UnavailableError(
                f"AdamW on the host over {elements} elements needs {self.needed_bytes(at) / 1e9:.1f} GB, {free_bytes / 1e9:.1f} GB are free"
            )
        dtype = torch_dtype(self.format, _CPU)

        def make() -> Work:
            step = _optimizer("adamw", "fused", _parameters((elements, 1), dtype, _CPU)).step
            return _with_threads(step, threads)

        return tried(make, "fused AdamW on the host")


def _with_threads(work: Callable[[], object], threads: int) -> Work:
    """Run `work` on so many threads, and restore the number afterwards."""

    def on_threads() -> object:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return work()
        finally:
            torch.set_num_threads(before)

    return on_threads


def family_parameters(device_type: str) -> list[Sizes]:
    """Return (elements, tensors) of models from small to large, or of the shards of them on one rank."""
    powers, counts = ((16, 18, 20, 22, 24), (1, 20, 100)) if device_type == "cpu" else ((20, 23, 26, 29), (1, 50, 300))
    return [(2.0**power, float(count)) for power in powers for count in counts]


def family_host(cores: int) -> list[Sizes]:
    """Return (elements, threads) with up to all `cores`."""
    threads = sorted({1, max(1, cores // 4), max(1, cores // 2), cores})
    return [(2.0**power, float(count)) for power in (18, 21, 24) for count in threads]
