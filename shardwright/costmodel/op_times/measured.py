"""Operation times from measurements of the device. Operations without a measurement use the catalog."""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from shardwright.base import Array, Number
from shardwright.specs import (
    BYTES_PER_ELEMENT,
    AttentionKernel,
    Device,
    Format,
    LinearFormat,
    NodeGroup,
    Profile,
    RankGroup,
)

from .constants import Constants
from .curves import attention_flops
from .datasheet import CatalogTimes
from .fitting import FittedSeries, fitted
from .operand_formats import cast_bytes, cast_variant
from .passes import ATTENTION_BACKWARD, operator_passes
from .protocol import CollectiveName, MatmulPart, Operator
from .scaled_collectives import ScaledCollective

# Memory-bound work without a measurement of its own is taken for a copy, which reads and writes each element.
# Variant of each update, and the parameters of a Llama layer: a step updates as many tensors in a row of the cost tables.
_UPDATES: dict[Operator, str] = {"adamw": "fused", "sgd": "foreach", "clip": ""}
_TENSORS_OF_A_LAYER = 9.0
_NORMAL_MEDIAN = 0.6745  # median of the absolute value of a standard normal variable
# Bytes that clipping reads and writes over those of AdamW's step (tables/build.py): three passes for seven.
_CLIP_OVER_ADAMW = 3 / 7
SUSTAINED_SHARE = "sustained_matmul_share"
"""Figure of a profile: the rate of a matmul after sustained load, over that with pauses, as series of matmuls are timed."""
_SHARDING_FIGURES = (
    "sharding_unit_pass_seconds",
    "sharding_unit_seconds",
    "sharding_seconds_per_byte",
    "accumulation_seconds_per_byte",
)


@dataclass(frozen=True)
class ProfileTimes:
    """`OpTimes` of the device that `profile` was measured on, computing in the format of the catalog's training.

    Times are interpolated between measured sizes; the fitted physical curve continues beyond them. Series that the
    profile lacks come from the catalog.
    """

    profile: Profile
    catalog: CatalogTimes
    _known: dict[tuple[str, str, str | None], FittedSeries | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _collectives: dict[str, ScaledCollective | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def basis(self) -> Literal["catalog", "profile"]:
        return "profile"

    @property
    def node(self) -> NodeGroup:
        return self.catalog.node

    @property
    def error_deviation(self) -> float | None:
        """From the worst of the series that most of a step is made of: matmul and attention in the compute format.

        A profile without left-out points of either says nothing.
        """
        kinds = ("forward", "input_gradient", "weight_gradient", "backward")
        curves = [
            series.curve
            for series in self.profile.series
            if series.operation in ("matmul", "attention") and series.format == self._format and series.variant in kinds
        ]
        medians = [curve.left_out_median for curve in curves if curve and curve.left_out_median is not None]
        return max(medians) / _NORMAL_MEDIAN if medians else None

    @property
    def constants(self) -> Constants:
        """The catalog's constants, with the measured slowdowns of compute beside a collective and beside a copy."""
        lost = {
            f"{name}_multiprocessors": slowdown.value * self.node.device.multiprocessors
            for name in ("collective", "copy")
            if (slowdown := self.profile.figures.get(f"compute_slowdown_beside_{name}")) is not None
        }
        return replace(self.catalog.constants, **lost) if lost else self.catalog.constants

    @property
    def _format(self) -> Format:
        return self.catalog.training.precision.compute

    @property
    def _activations(self) -> Format:
        """Format outside matmuls. tf32 is a way to multiply fp32 matrices; all other operations are fp32."""
        return "fp32" if self._format == "tf32" else self._format

    def _measured(self, operation: str, variant: str, format: Format | None) -> FittedSeries | None:
        key = (operation, variant, format)
        if key not in self._known:
            series = self.profile.find(*key)
            self._known[key] = fitted(series) if series else None
        return self._known[key]

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
        """Measured, in the layout of `part`.

        A loop that was not measured takes its single matmuls. Unmeasured groups of one kernel scale one matmul by the ratio
        of the catalog. Series are timed with pauses, so training runs at the sustained share of their rates.
        """
        measured = self._matmul_seconds_with_pauses(m, k, n, groups, low, part=part, looped=looped)
        if measured is None:
            return self.catalog.matmul_seconds(m, k, n, groups=groups, low=low, part=part)
        return measured / self._sustained_share

    def _matmul_seconds_with_pauses(
        self,
        m: Number,
        k: Number,
        n: Number,
        groups: Number,
        low: LinearFormat | None,
        *,
        part: MatmulPart,
        looped: bool,
    ) -> Array | None:
        if low in (None, "fp8"):
            format: Format = "fp8" if low else self._format
            plain = self._measured("matmul", part, format)
            if plain is not None and np.all(np.asarray(groups) == 1):
                return plain.seconds(m, k, n)
            grouped = self._measured("matmul", f"{'looped' if looped else 'grouped'}_{part}", format)
            if grouped is not None and np.any(np.asarray(groups) != 1):
                return grouped.seconds(m, k, n, groups)
            if plain is not None and looped:
                return plain.seconds(m, k, n) * groups
            if plain is not None:
                rows = np.asarray(m, dtype=float) * groups
                compared = self.catalog.matmul_seconds(m, k, n, groups=groups, low=low)
                return plain.seconds(rows, k, n) * compared / self.catalog.matmul_seconds(rows, k, n, low=low)
        return None

    @property
    def _sustained_share(self) -> float:
        """1 where it was not measured."""
        figure = self.profile.figures.get(SUSTAINED_SHARE)
        return min(1.0, figure.value) if figure and figure.value > 0 else 1.0

    def attention_seconds(
        self, flops: Number, *, head_size: Number, seq_len: Number, backward: bool, value_size: Number | None = None
    ) -> Array:
        """Measured causal attention of the software's kernel at this length and head size. A window computes part of its
        FLOPs at the same rate."""
        latent = value_size is not None and bool(np.all(3 * np.asarray(value_size) == 2 * np.asarray(head_size)))
        measured, is_latent = self._attention("backward" if backward else "forward", latent=latent)
        if measured is None:
            return self.catalog.attention_seconds(flops, head_size=head_size, seq_len=seq_len, backward=backward)
        forward = np.asarray(flops, dtype=float) / (ATTENTION_BACKWARD if backward else 1.0)
        computed = (np.asarray(head_size) + np.asarray(value_size)) / 2 if is_latent else head_size
        heads = forward / attention_flops(1.0, seq_len, computed)
        return measured.seconds(np.maximum(heads, 1e-3), seq_len, head_size)

    def _attention(self, way: str, *, latent: bool) -> tuple[FittedSeries | None, bool]:
        """Return the series of the software's kernel, else of torch's choice, and whether it is of latent attention."""
        kernels = attention_variants(self.catalog.training.software.attention_kernel, self.node.device)
        for is_latent in (True, False) if latent else (False,):
            for kernel in kernels:
                variant = "-".join(part for part in (way, kernel, "mla" * is_latent) if part)
                if (found := self._measured("attention", variant, self._activations)) is not None:
                    return found, is_latent
        return None, False

    def memory_bound_seconds(self, moved_bytes: Number) -> Array:
        """Seconds of a copy of as many bytes."""
        copy = self._measured("copy", "forward", self._activations)
        if copy is None:
            return self.catalog.memory_bound_seconds(moved_bytes)
        element_bytes = BYTES_PER_ELEMENT[self._format]
        elements = np.asarray(moved_bytes, dtype=float) / (operator_passes("copy", element_bytes) * element_bytes)
        return _nothing_for_nothing(copy, elements)

    def cast_seconds(self, moved_bytes: Number, low: LinearFormat) -> Array:
        """The traffic at the rate of the measured cast. Spared traffic is that of another kernel, so memory's rate counts.

        A stack that compiles or has kernels of its own casts as compiled code does, any other in eager PyTorch.
        """
        compiled = self.catalog.training.software.fuses_casts
        measured = self._measured("cast", cast_variant(low, compiled=compiled), self._activations)
        if measured is None:
            return self.memory_bound_seconds(moved_bytes)
        moved = np.asarray(moved_bytes, dtype=float)
        elements = np.maximum(moved, 0.0) / cast_bytes(low, BYTES_PER_ELEMENT[self._activations])
        return np.where(moved < 0, self.memory_bound_seconds(moved), _nothing_for_nothing(measured, elements))

    def operator_seconds(
        self, operator: Operator, elements: Number, moved_bytes: Number, *, backward: bool = False
    ) -> Array:
        measured = self._operator(operator, backward)
        if measured is None:
            return self.memory_bound_seconds(moved_bytes)
        if operator in _UPDATES:
            return _nothing_for_nothing(measured, elements, _TENSORS_OF_A_LAYER)
        return _nothing_for_nothing(measured, elements)

    def _operator(self, operator: Operator, backward: bool) -> FittedSeries | None:
        if operator in _UPDATES:
            return self._measured(operator, _UPDATES[operator], self.catalog.training.precision.parameters)
        return self._measured(operator, "backward" if backward else "forward", self._activations)

    def with_launches_seconds(self, busy_seconds: Number, kernels: Number) -> Array:
        """A GPU waits for the host where that is slower. The measured operators of a CPU include their dispatch."""
        host = self.profile.figures.get("host_seconds_per_kernel")
        if not self.profile.fingerprint.is_launched_ahead:
            return np.asarray(busy_seconds) + 0.0 * np.asarray(kernels)
        if host is None:
            return self.catalog.with_launches_seconds(busy_seconds, kernels)
        return np.maximum(np.asarray(kernels, dtype=float) * host.value, busy_seconds)

    def collective_seconds(self, name: CollectiveName, size_bytes: Number, group: RankGroup) -> Array:
        """The catalog's algorithm, scaled to the measurements on groups like these."""
        if name not in self._collectives:
            series = self.profile.find(name)
            self._collectives[name] = ScaledCollective.fit(name, series, self.catalog) if series else None
        measured = self._collectives[name]
        if measured is None:
            return self.catalog.collective_seconds(name, size_bytes, group)
        return measured.seconds(size_bytes, group)

    def sharding_seconds(self, parameter_bytes: Number, microbatches: Number, repeats: Number) -> Array:
        """From figures of a CPU, whose cores do this work themselves. Beside a GPU the host's part is hidden."""
        unit_pass, unit, byte, accumulated = map(self._sharding_figure, _SHARDING_FIGURES)
        hooks = unit_pass * np.asarray(microbatches, dtype=float) + unit * np.asarray(repeats, dtype=float)
        per_byte = byte * np.asarray(repeats) + accumulated * (np.asarray(microbatches) - np.asarray(repeats))
        return np.asarray(hooks + per_byte * np.asarray(parameter_bytes, dtype=float))

    def _sharding_figure(self, name: str) -> float:
        """The figure in the compute format where it was measured so; fp32 has no casts."""
        figures = self.profile.figures
        figure = figures.get(f"{name}_{self._activations}", figures.get(name))
        return figure.value if figure else 0.0

    def host_copy_seconds(self, size_bytes: Number) -> Array:
        """The mean of both ways, page-locked. A CPU page-locks nothing, as its copies stay in its memory."""
        kind = "pinned" if self.profile.fingerprint.has_own_memory else "pageable"
        ways = [self._measured("host_copy", f"{way}-{kind}", None) for way in ("to_device", "to_host")]
        known = [way.seconds(np.maximum(size_bytes, 1.0)) for way in ways if way is not None]
        if not known:
            return self.catalog.host_copy_seconds(size_bytes)
        return np.where(np.asarray(size_bytes) > 0, np.mean(known, axis=0), 0.0)

    def host_update_seconds(self, parameters: Number, moved_bytes: Number) -> Array:
        """AdamW's step as measured with this many threads. Clipping is added in proportion to its bytes."""
        measured = self._measured("host_adamw", "fused", "fp32")
        if measured is None or self.catalog.training.optimizer != "adamw":
            return self.catalog.host_update_seconds(parameters, moved_bytes)
        step = _nothing_for_nothing(measured, parameters, float(self.profile.fingerprint.threads))
        return step * (1 + _CLIP_OVER_ADAMW)


def attention_variants(kernel: AttentionKernel, device: Device) -> tuple[str, ...]:
    """Return the measured kernels that stand for the software's, the best first; "" for torch's choice.

    torch's flash kernel is FlashAttention-2 (aten/src/ATen/native/transformers/cuda/flash_attn). From Hopper on,
    "flash-3" stands for FlashAttention-3 and cuDNN; before it, such software runs FlashAttention-2 (`Stack`).
    """
    if kernel == "flash-3" and device.since_hopper:
        return ("flash3", "cudnn", "")
    return ("",) if kernel == "flash-1" else ("flash", "")


def _nothing_for_nothing(measured: FittedSeries, elements: Number, *others: Number) -> Array:
    """Seconds of an elementwise operator, 0 where it has no elements."""
    return np.where(np.asarray(elements) > 0, measured.seconds(np.maximum(elements, 1.0), *others), 0.0)
