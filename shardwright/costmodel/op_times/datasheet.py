"""Operation times from data sheets: a roofline with smooth efficiency curves and a few constants (constants.py)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from shardwright.base import Array, Number, SpecError
from shardwright.specs import (
    BYTES_PER_ELEMENT,
    Device,
    DeviceFormat,
    LinearFormat,
    NodeGroup,
    RankGroup,
    TrainingSpec,
)

from .attention import AttentionKernelTimes
from .collectives import Collectives, gloo_seconds
from .constants import CALIBRATED, Constants, Value, over
from .operand_formats import OPERANDS
from .passes import ATTENTION_BACKWARD
from .protocol import CollectiveName, MatmulPart, Operator

# Bytes moved for each element of the queries by the kernels around the main one of a fused backward pass: output and its
# gradient read and an fp32 sum cleared, then that sum read and written in 16 bits (flash-attention, flash_bwd_launch_template.h).
_BACKWARD_BYTES = 2 + 2 + 4 + 4 + 2
_OPERAND_BYTES: Mapping[str, float] = {**BYTES_PER_ELEMENT, "fp4": 0.5}
# (tile rows, tile columns, rate relative to the largest tile): small matmuls use smaller, slower tiles to fill the
# card.
_TILES = np.array([(256, 128, 1.0), (128, 128, 0.9), (64, 128, 0.75), (64, 64, 0.55)])


@dataclass(frozen=True)
class CatalogTimes:
    """`OpTimes` of one device of `node`, computing in the format of `training`.

    `oversubscription` divides the rate between nodes.

    Raises:
        SpecError: the device has no such format.
    """

    node: NodeGroup
    training: TrainingSpec
    constants: Constants = field(default=CALIBRATED, repr=False)
    oversubscription: float = 1.0

    def __post_init__(self) -> None:
        compute, peaks = self.training.precision.compute, self.device.peak_flops_per_s
        if compute not in peaks:
            raise SpecError(f"{self.device.name} does not compute in {compute}; it has {', '.join(sorted(peaks))}")
        low = self.training.precision.linear
        if low and OPERANDS[low].needs not in peaks:
            can = [name for name, operand in OPERANDS.items() if operand.needs in peaks]
            raise SpecError(
                f"{self.device.name} has no matmuls in {low}; {'it has ' + ', '.join(can) if can else 'leave linear out'}"
            )

    @property
    def basis(self) -> Literal["catalog", "profile"]:
        """A device with measured rates (`local` on a CPU) is a profile of its machine, any other is a data sheet."""
        return "profile" if self.device.attention_flops_per_s else "catalog"

    @property
    def error_deviation(self) -> None:
        """None: data sheets have no points."""
        return None

    @property
    def device(self) -> Device:
        return self.node.device

    @property
    def _peak_flops_per_s(self) -> float:
        return self.device.peak_flops_per_s[self.training.precision.compute]

    def matmul_seconds(
        self,
        m: Number,
        k: Number,
        n: Number,
        *,
        groups: Number = 1,
        low: LinearFormat | None = None,
        part: MatmulPart = "forward",
        looped: bool = False,
    ) -> Array:
        """Roofline: the longer of FLOPs over the reachable rate, and the three matrices over the memory bandwidth.

        Data sheets do not tell kernels of a loop from one kernel.
        """
        m, k, n = (np.asarray(size, dtype=float) for size in (m, k, n))
        out_bytes = BYTES_PER_ELEMENT[self.training.precision.compute]
        in_bytes = OPERANDS[low].bytes if low else out_bytes
        peak_format: DeviceFormat = OPERANDS[low].peak if low else self.training.precision.compute
        size_bytes = groups * (in_bytes * (m * k + k * n) + out_bytes * m * n)
        reached = self._matmul_efficiency(m, k, n, groups, peak_format) / self._misalignment(m, k, n, groups, part)
        rate = self.device.peak_flops_per_s[peak_format] * reached * (OPERANDS[low].rate if low else 1.0)
        return np.maximum(2 * m * k * n * groups / rate, self.memory_bound_seconds(size_bytes))

    def _matmul_efficiency(self, m: Array, k: Array, n: Array, groups: Number, peak_format: DeviceFormat) -> Array:
        if self.device.rates_include_efficiency:
            return np.ones(np.broadcast(m, k, n).shape)
        shape = m * k * n  # has the axes of the result
        # a step of the inner loop reads as many bytes in any format (CUTLASS: 128 a row), so more elements of a smaller one
        smaller = _OPERAND_BYTES[self.training.precision.compute] / _OPERAND_BYTES[peak_format]
        deep = k / (k + over(self.constants.matmul_k_half, shape) * smaller)
        best = self.device.best_matmul_share(peak_format) * self.device.matmul_clock(peak_format)
        reached = best * over(self._matmul_fraction, shape)
        return np.asarray(reached * deep * self._filled(m, n, groups))

    def _misalignment(self, m: Array, k: Array, n: Array, groups: Number, part: MatmulPart) -> Array:
        """By what factor rows that do not start at multiples of 16 bytes slow a matmul, 1 for aligned ones.

        Matrices lie row by row, so the lengths of rows count: the columns of both operands. The number of tokens never does,
        so that experts may get any number of them.
        """
        if self.device.rates_include_efficiency:
            return np.ones(())
        columns = m if part == "weight_gradient" else k
        aligned = (columns % 8 == 0) & (n % 8 == 0)
        if aligned.all():
            return np.ones(())
        shape = m * k * n
        slowdown = np.where(
            np.asarray(groups) > 1,
            over(self.constants.misaligned_batched_slowdown, shape),
            over(self.constants.misaligned_slowdown, shape),
        )
        return np.where(aligned, 1.0, slowdown)

    @property
    def _matmul_fraction(self) -> Value:
        if self.device.is_blackwell:
            return self.constants.blackwell_matmul_fraction
        return self.constants.matmul_fraction

    def _filled(self, m: Array, n: Array, groups: Number) -> Array:
        """Share of the card that the best tile size keeps busy: tile quantisation times wave quantisation."""
        units, shape = self.device.multiprocessors, (-1,) + (1,) * np.broadcast(m, n, groups).ndim
        rows, columns, rate = (each.reshape(shape) for each in _TILES.T)
        tiles = np.ceil(m / rows) * np.ceil(n / columns) * groups
        used = m * n * groups / (tiles * rows * columns)
        shares = rate * used * tiles / (np.ceil(tiles / units) * units)
        return np.asarray(shares.max(axis=0))

    def attention_seconds(
        self, flops: Number, *, head_size: Number, seq_len: Number, backward: bool, value_size: Number | None = None
    ) -> Array:
        """Fused attention at its measured rate, or by its matmuls, exponentials and clock (attention.py); slower with short
        sequences, whose causal blocks are cut more often. A backward pass also has its small kernels (`_BACKWARD_BYTES`)."""
        flops = np.asarray(flops, dtype=float)
        measured = self.device.attention_flops_per_s.get(self.training.precision.compute)
        if measured:  # the rate is the mean over a forward and a backward
            return np.asarray(flops / measured)
        kernel = AttentionKernelTimes(self.device, self.training, self.constants)
        keys = np.asarray(seq_len, dtype=float)
        cut = 1 + over(self.constants.attention_length_half, flops) / keys
        main = kernel.seconds(flops, head_size, backward=backward) * cut
        if not backward:
            return np.asarray(main)
        # two matmuls forward, over half of the keys on average
        query_elements = flops / (ATTENTION_BACKWARD * 2 * keys)
        return np.asarray(main + self.memory_bound_seconds(_BACKWARD_BYTES * query_elements))

    def memory_bound_seconds(self, moved_bytes: Number) -> Array:
        moved_bytes = np.asarray(moved_bytes, dtype=float)
        fraction = 1.0 if self.device.rates_include_efficiency else over(self.constants.memory_fraction, moved_bytes)
        return np.asarray(moved_bytes / (self.device.memory_bytes_per_s * fraction))

    def cast_seconds(self, moved_bytes: Number, low: LinearFormat) -> Array:
        """Memory traffic over the memory bandwidth."""
        return self.memory_bound_seconds(moved_bytes)

    def operator_seconds(
        self, operator: Operator, elements: Number, moved_bytes: Number, *, backward: bool = False
    ) -> Array:
        """Memory traffic over the memory bandwidth, equally for every operator."""
        return self.memory_bound_seconds(moved_bytes)

    def with_launches_seconds(self, busy_seconds: Number, kernels: Number) -> Array:
        """On a GPU the longer of work and launches, as the host launches ahead. On a CPU the sum, as it does both."""
        kernels = np.asarray(kernels, dtype=float)
        if not self.device.is_launched_ahead:
            return kernels * self.device.launch_seconds + busy_seconds
        host = np.maximum(self.device.launch_seconds, self.constants.host_seconds_per_kernel)
        return np.maximum(kernels * over(host, np.asarray(busy_seconds)), busy_seconds)

    def collective_seconds(self, name: CollectiveName, size_bytes: Number, group: RankGroup) -> Array:
        """NCCL's algorithms between GPUs (collectives.py), gloo's between CPUs."""
        if self.device.collective_library == "gloo":
            return gloo_seconds(name, size_bytes, group, self.node, self.oversubscription)
        among = Collectives(self.node, self.constants, self.constants.busy_nic_share, self.oversubscription)
        return among.seconds(name, size_bytes, group)

    def sharding_seconds(self, parameter_bytes: Number, microbatches: Number, repeats: Number) -> Array:
        """Zero: only a measurement tells it, and on a GPU the host's part is hidden."""
        return np.zeros(np.broadcast(parameter_bytes, microbatches, repeats).shape)

    def host_copy_seconds(self, size_bytes: Number) -> Array:
        link = self.node.host_link
        return link.latency_seconds + np.asarray(size_bytes, dtype=float) / link.bytes_per_s

    def host_update_seconds(self, parameters: Number, moved_bytes: Number) -> Array:
        node = self.node
        if not self.device.has_own_memory:
            return self.memory_bound_seconds(moved_bytes)
        rate = node.host.memory_bytes_per_s * self.constants.host_memory_fraction / node.devices_per_host
        return np.asarray(moved_bytes, dtype=float) / rate
