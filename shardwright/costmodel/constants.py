"""The constants of the cost model that no data sheet gives, each with its meaning and where its value is from."""

from typing import NamedTuple


class Constant(NamedTuple):
    value: float
    unit: str
    meaning: str
    source: str


_EARLIER = (
    "rounded from a smaller model of this form that was fitted on part of shardwright/benchmarks/published/training.csv;"
    " not refitted"
)
_BETWEEN = (
    "chosen between what such a fit gave and the best measured rate (shardwright/benchmarks/published/hardware.csv)"
)
_EXPOSED = "middle of the exposed share of data-parallel traffic (0.15 to 0.26) in such fits"
_COUNTED = "operators that torch 2.13 dispatches for a Hugging Face Llama layer, views left out"
_RESIDUALS = "python -m shardwright.benchmarks.residuals, on shardwright/benchmarks/published/training.csv"

MATMUL_FRACTION = Constant(0.80, "share of peak", "largest share of the peak that a matmul reaches", _EARLIER)
HOPPER_MATMUL_FRACTION = Constant(
    0.66,
    "share of peak",
    "the same on devices that can't hold their data-sheet clock in matmuls (peak over 500 TFLOP/s)",
    _BETWEEN,
)
MATMUL_K_HALF = Constant(160.0, "elements", "inner size at which a matmul reaches half of its rate", _EARLIER)
MISALIGNED_SLOWDOWN = Constant(
    2.3, "factor", "matmul with an outer size that is odd (an unpadded vocabulary)", _EARLIER
)
MEMORY_FRACTION = Constant(
    0.80, "share of peak", "share of the memory bandwidth that elementwise kernels reach", _EARLIER
)
ATTENTION_FRACTION = Constant(
    0.40,
    "share of peak",
    "fused causal attention forward, head size 128, before Hopper",
    "0.36 in such a fit, rounded up by hand",
)
HOPPER_ATTENTION_FRACTION = Constant(0.30, "share of peak", "the same on Hopper and later", _EARLIER)
ATTENTION_BACKWARD_FRACTION = Constant(0.75, "factor", "rate of fused attention backward over its forward", "assumed")
LOSS_BYTES_PER_LOGIT = Constant(50.0, "bytes", "memory traffic of the loss, forward and backward, per logit", _EARLIER)
NVLINK_FRACTION = Constant(0.70, "share of peak", "bus bandwidth of large collectives inside a node", _EARLIER)
NIC_FRACTION = Constant(0.65, "share of peak", "bus bandwidth of large collectives between nodes", _EARLIER)
COLLECTIVE_SECONDS = Constant(30e-6, "seconds", "start of any collective", "assumed")
HOP_SECONDS = Constant(1.5e-6, "seconds", "each further rank of a ring inside a node", "assumed")
OVERLAP_SLOWDOWN = Constant(
    0.20, "seconds per second", "compute lost to each second of communication behind it", _EXPOSED
)
KERNELS_PER_LAYER_FORWARD = Constant(34.0, "kernels", "kernels of one layer's forward, eager", _COUNTED)
KERNELS_PER_LAYER_BACKWARD = Constant(69.0, "kernels", "kernels of one layer's backward, eager", _COUNTED)
ALLOCATOR_SLACK = Constant(0.04, "share", "activation memory that the caching allocator holds without use", "assumed")
COMMUNICATOR_BYTES = Constant(
    300e6, "bytes", "buffers of one communicator", "assumed from NCCL's default channels and buffer size"
)
MEMORY_RESERVE = Constant(
    0.06, "share", "device memory that a plan leaves free: fragmentation, and what the estimate misses", "assumed"
)
CONTEXT_BYTES = Constant(600e6, "bytes", "CUDA context and loaded kernels", "assumed")
HOST_MEMORY_FRACTION = Constant(
    0.6, "share of peak", "share of host memory bandwidth that an optimizer step reaches", "assumed"
)
INTERVAL_80_LOW = Constant(0.81, "factor", "measured over predicted step time, 10% quantile", _RESIDUALS)
INTERVAL_80_HIGH = Constant(1.55, "factor", "measured over predicted step time, 90% quantile", _RESIDUALS)
INTERVAL_95_LOW = Constant(0.50, "factor", "measured over predicted step time, 2.5% quantile", _RESIDUALS)
INTERVAL_95_HIGH = Constant(3.00, "factor", "measured over predicted step time, 97.5% quantile", _RESIDUALS)
