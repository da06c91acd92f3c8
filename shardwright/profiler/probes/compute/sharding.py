"""The seconds that FSDP2 adds to the passes of wrapped modules, beside collectives:
hooks, copies, and new memory each step."""

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined] # public, but not marked as such
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from shardwright.profiler.timing import Machine, UnavailableError, Work, torch_dtype
from shardwright.specs import Figure, Format

_UNITS, _MATRICES, _TOKENS = 4, 7, 4
_TINY, _LARGE = 32, 768
_ROUNDS, _REPEATS = 4, 3


@dataclass(frozen=True)
class ShardingProbe:
    """Costs of sharding on a CPU, where no device hides the host.

    A unit has as many matrices as a Llama layer, on a group of one rank, so nothing is sent. The time of the matmuls
    alone is subtracted.

    `sharding_unit_pass_seconds`: of each unit and microbatch; `sharding_unit_seconds`: of each unit and step;
    `sharding_seconds_per_byte`: of each parameter byte and step; `accumulation_seconds_per_byte`: of each gradient byte
    and microbatch after the first. Bytes are fp32 bytes. Where the passes compute in another `format`, the names end in
    it, and the figures include the casts of parameters and gradients.
    """

    format: Format = "fp32"

    @property
    def name(self) -> str:
        return f"sharding{self._ending}"

    @property
    def _ending(self) -> str:
        return "" if self.format == "fp32" else f"_{self.format}"

    def measure(self, machine: Machine) -> dict[str, Figure]:
        if machine.device.type != "cpu":
            raise UnavailableError("what FSDP2 adds is measured on CPUs only: beside a GPU the host's part is hidden")
        with _one_rank() as mesh:
            tiny, large = (_Units(width, mesh, torch_dtype(self.format, machine.device)) for width in (_TINY, _LARGE))
            tiny_first, tiny_more = tiny.added_seconds(machine)
            large_first, large_more = large.added_seconds(machine)
        size_bytes = large.unit_bytes - tiny.unit_bytes
        found = {
            "sharding_unit_pass_seconds": _figure(tiny_more, "s", "FSDP2's hooks, a unit and microbatch"),
            "sharding_unit_seconds": _figure(tiny_first - tiny_more, "s", "FSDP2's hooks, a unit and step"),
            "sharding_seconds_per_byte": _figure(
                ((large_first - large_more) - (tiny_first - tiny_more)) / size_bytes,
                "s/byte",
                "copies and new memory of FSDP2, a parameter byte and step",
            ),
            "accumulation_seconds_per_byte": _figure(
                (large_more - tiny_more) / size_bytes, "s/byte", "adding up gradients, a byte and further microbatch"
            ),
        }
        return {f"{name}{self._ending}": figure for name, figure in found.items()}


def _figure(value: float, unit: str, meaning: str) -> Figure:
    return Figure(value=max(0.0, value), unit=unit, meaning=meaning)


class _Units:
    """Wrapped units of square matrices of one width, computed in `dtype`, and their matmuls alone."""

    def __init__(self, width: int, mesh: DeviceMesh, dtype: torch.dtype) -> None:
        self.unit_bytes = 4.0 * _MATRICES * width**2
        self._width, self._dtype = width, dtype
        lower = None if dtype == torch.float32 else dtype
        precision = MixedPrecisionPolicy(param_dtype=lower, reduce_dtype=torch.float32)
        self._model = nn.Sequential(
            *(nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(_MATRICES))) for _ in range(_UNITS))
        )
        for unit in self._model:
            fully_shard(unit, mesh=mesh, reshard_after_forward=False, mp_policy=precision)
        fully_shard(self._model, mesh=mesh, reshard_after_forward=False, mp_policy=precision)

    def added_seconds(self, machine: Machine) -> tuple[float, float]:
        """Return the seconds of a unit in a step of one microbatch, and those of
        each further microbatch, without matmuls."""
        works: list[Work] = [self._matmuls(), *(partial(self._step, count) for count in (1, 2, 3))]
        matmuls, *steps = _medians(machine, works)
        more = statistics.fmean(later - earlier for earlier, later in pairwise(steps))
        return (steps[0] - matmuls) / _UNITS, (more - matmuls) / _UNITS

    def _step(self, microbatches: int) -> None:
        root = self._model
        assert isinstance(root, FSDPModule)
        for index in range(microbatches):
            last = index == microbatches - 1
            root.set_requires_gradient_sync(last)
            root.set_reshard_after_backward(last)
            root.set_is_last_backward(last)
            root(torch.ones(_TOKENS, self._width, dtype=self._dtype)).sum().backward()
        root.zero_grad(set_to_none=True)

    def _matmuls(self) -> "_Matmuls":
        weights = torch.ones(_UNITS * _MATRICES, self._width, self._width, dtype=self._dtype)
        return _Matmuls(torch.ones(_TOKENS, self._width, dtype=self._dtype), weights)


@dataclass(frozen=True, eq=False)
class _Matmuls:
    """The three matmuls of each matrix, into existing memory."""

    x: Tensor
    weights: Tensor

    def __call__(self) -> None:
        out, gradient = torch.empty_like(self.x), torch.empty_like(self.weights[0])
        for weight in self.weights:
            torch.mm(self.x, weight.t(), out=out)
            torch.mm(self.x, weight, out=out)
            torch.mm(self.x.t(), self.x, out=gradient)


def _medians(machine: Machine, works: Sequence[Work]) -> list[float]:
    """Warm up each work once, then time all in turn, so that a slow moment affects all of them."""
    for work in works:
        work()
    rounds = [[machine.seconds(work, _REPEATS) for work in works] for _ in range(_ROUNDS)]
    return [statistics.median(chain.from_iterable(samples)) for samples in zip(*rounds, strict=True)]


@contextlib.contextmanager
def _one_rank() -> Iterator[DeviceMesh]:
    """Yield a mesh of this rank alone, in the existing process group or in a temporary one."""
    alone = not dist.is_initialized()
    if alone:
        dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        groups = [dist.new_group([rank], backend="gloo") for rank in range(dist.get_world_size())]
        yield DeviceMesh.from_group(groups[dist.get_rank()], "cpu")
    finally:
        if alone:
            dist.destroy_process_group()
