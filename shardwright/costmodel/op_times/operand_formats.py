"""How operands of weight matmuls in 8 and 4 bits are made: their peak, their bytes, and the passes over the source."""

from collections.abc import Mapping
from typing import NamedTuple

from shardwright.base import Number
from shardwright.specs import DeviceFormat, LinearFormat


class Operand(NamedTuple):
    """How one format is made from another, per element.

    `peak`: the device's peak for its matmuls. `needs`: a format that devices with such matmuls have. Devices that scale
    blocks also have 4-bit matmuls (NVIDIA Blackwell, AMD CDNA 4). `scans`: the source is read once more before, for one
    scale of the whole tensor (Micikevicius et al. 2022, arXiv 2209.05433). `bytes`: bytes of the copy, its scales
    included. `again`: the second layout is made from the source again. The reason is that scales of blocks along the
    inner axis do not turn with it (OCP Microscaling Formats 1.0, section 5.2; Rouhani et al. 2023, arXiv 2310.10537).
    Otherwise the first layout is transposed. `turns`: for scales of rows, the source is written in the other layout
    first, so that its rows lie together (torchao, testing/training/roofline_utils.py). `rate`: the matmul's rate over
    that of one scale for the tensor. `plain_weight_gradient`: the weight's gradient is a matmul in the compute format.
    `transforms`: both operands of the weight's gradient, an input and a gradient, get a random Hadamard transform over 16 of
    their rows, so that their second layout has another scale. `square_weights`: a weight's scales are those of squares, so
    that its second layout is the first one transposed. `in_pieces`: Transformer Engine can gather it in pieces beside matmuls
    (pytorch/module/base.py, fill_userbuffers_buffer_for_all_gather). `scaled_after`: torchao's matmuls of the backward pass do not
    know these scales, since the kernel that does is slow with full accumulation; their results are multiplied by both operands'
    scales afterwards (torchao/float8/float8_ops.py, addmm_float8_unwrapped).
    """

    peak: DeviceFormat
    needs: DeviceFormat
    scans: bool
    bytes: float
    again: bool
    turns: bool = False
    rate: float = 1.0
    plain_weight_gradient: bool = False
    transforms: bool = False
    square_weights: bool = False
    in_pieces: bool = True
    scaled_after: bool = False

    def first_bytes(self, source_bytes: Number, *, scan_is_fused: bool) -> Number:
        """Return the memory traffic of the first layout. A compiler finds the
        scale in the kernel that writes the source."""
        return source_bytes * (2 if self.scans and not scan_is_fused else 1) + self.bytes

    def second_bytes(
        self, source_bytes: Number, *, weight: bool = False, grouped: bool = False, together: bool | None = None
    ) -> Number:
        """Return the memory traffic of the second layout. The scale of the whole tensor is known by then, unless a transform
        wrote another one, which is read for it. Of `grouped` tokens the copy in the other layout is read twice, for the scales of
        each group's rows and to cast them (torchao, prototype/moe_training: fp8_grouped_mm.py, _triton_fp8_per_group_colwise_scales_kernel).

        `together`: of kernels by a compiler, whether the one that makes the first layout makes this one, or its turned source, as
        well; otherwise they read the source again (torchao/testing/training/roofline_utils.py, get_tensor_memory_traffic_ovhd_s).
        None: without a compiler.
        """
        if weight and self.square_weights:
            return 2 * self.bytes
        extra = 3 * (self.transforms and not weight) + 2 * (self.turns and grouped and not weight)
        if self.again:
            turned = self.turns * (1 if together else 2)
            return source_bytes * (1 + turned + extra) + self.bytes
        if together is None:
            return 2 * self.bytes
        return self.bytes + (0 if together else source_bytes)

    def scaling_bytes(self, result_bytes: Number, *, fused: bool) -> Number:
        """Return the memory traffic for each element of a result that is scaled afterwards: it is read and written. Without a
        compiler the product of the scales is a tensor in fp32 as large, which is written and read besides."""
        return self.scaled_after * (2 * result_bytes + (0 if fused else 8))

    def both_bytes(self, source_bytes: Number, *, scaled: bool) -> Number:
        """Return the memory traffic of a kernel that reads the source once and writes both layouts. Unless the source is
        `scaled` already, another kernel reads it before, for the scale, or for both scales of what is transformed. Another
        one transforms and casts the second layout (hadamard_transform_cast_fusion.cu)."""
        return source_bytes * (1 + (self.scans and not scaled) + self.transforms) + 2 * self.bytes


# The matmul with scales of rows runs at 90% to 100% of the other's rate for most shapes (PyTorch, issue 147971).
_ROWS_RATE = 0.95

OPERANDS: dict[LinearFormat, Operand] = {
    "fp8": Operand("fp8", "fp8", scans=True, bytes=1.0, again=False),
    "fp8-rowwise": Operand(
        "fp8", "fp8", scans=False, bytes=1.0, again=True, turns=True, rate=_ROWS_RATE, scaled_after=True
    ),
    # torchao's rowwise_with_gw_hp; of the operands only the weight needs a second layout, with one scale
    "fp8-rowwise-gw-hp": Operand(
        *("fp8", "fp8"),
        scans=False,
        bytes=1.0,
        again=True,
        rate=_ROWS_RATE,
        plain_weight_gradient=True,
        scaled_after=True,
    ),
    # mxfp8: blocks of 32 share an 8-bit scale; nvfp4: blocks of 16 do, and the whole tensor has another scale. Its recipe
    # (Transformer Engine, common/recipe, NVFP4BlockScaling; arXiv 2509.25149) rounds gradients stochastically in the instruction
    # that casts, which moves nothing
    "mxfp8": Operand("fp8", "fp4", scans=False, bytes=1.0 + 1 / 32, again=True),
    "nvfp4": Operand(
        *("fp4", "fp4"),
        scans=True,
        bytes=0.5 + 1 / 16,
        again=True,
        transforms=True,
        square_weights=True,
        in_pieces=False,
    ),
}

# torchao's rowwise_with_gw_hp casts by rows as well
_CAST_AS: Mapping[LinearFormat, LinearFormat] = {"fp8-rowwise-gw-hp": "fp8-rowwise"}


def cast_variant(low: LinearFormat, *, compiled: bool) -> str:
    """Return the variant of the profile's series `cast` that makes operands in `low`.

    `compiled`: by one or two kernels, as a compiler or a library writes them; otherwise by eager PyTorch's chain.
    """
    return f"{_CAST_AS.get(low, low)}{'-compiled' if compiled else ''}"


def cast_bytes(low: LinearFormat, source_bytes: Number) -> Number:
    """Return the memory traffic of a cast on its own, per element: what operands and results need at least."""
    return OPERANDS[low].first_bytes(source_bytes, scan_is_fused=False)
