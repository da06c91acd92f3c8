"""The constants of the cost model that no data sheet gives, each with its meaning and where its value is from."""

from typing import NamedTuple


class Constant(NamedTuple):
    value: float
    unit: str
    meaning: str
    source: str


_FITTED = "coordinate descent on shardwright/benchmarks/published/training.csv: python -m shardwright.benchmarks.fit"

MATMUL_FRACTION = Constant(0.80, "share of peak", "largest share of the peak that a matmul reaches", _FITTED)
HOPPER_MATMUL_FRACTION = Constant(
    0.66,
    "share of peak",
    "the same on devices that can't hold their data-sheet clock in matmuls (peak over 500 TFLOP/s)",
    _FITTED,
)
MATMUL_K_HALF = Constant(160.0, "elements", "inner size at which a matmul reaches half of its rate", _FITTED)
MISALIGNED_SLOWDOWN = Constant(2.3, "factor", "matmul with an outer size that is odd (an unpadded vocabulary)", _FITTED)
MEMORY_FRACTION = Constant(
    0.80, "share of peak", "share of the memory bandwidth that elementwise kernels reach", _FITTED
)
ATTENTION_FRACTION = Constant(
    0.40, "share of peak", "fused causal attention forward, head size 128, before Hopper", _FITTED
)
HOPPER_ATTENTION_FRACTION = Constant(0.30, "share of peak", "the same on Hopper and later", _FITTED)
ATTENTION_BACKWARD_FRACTION = Constant(0.75, "factor", "rate of fused attention backward over its forward", _FITTED)
LOSS_BYTES_PER_LOGIT = Constant(50.0, "bytes", "memory traffic of the loss, forward and backward, per logit", _FITTED)
NVLINK_FRACTION = Constant(0.70, "share of peak", "bus bandwidth of large collectives inside a node", _FITTED)
NIC_FRACTION = Constant(0.65, "share of peak", "bus bandwidth of large collectives between nodes", _FITTED)
COLLECTIVE_SECONDS = Constant(30e-6, "seconds", "start of any collective", _FITTED)
HOP_SECONDS = Constant(1.5e-6, "seconds", "each further rank of a ring inside a node", _FITTED)
OVERLAP_SLOWDOWN = Constant(
    0.20, "seconds per second", "compute lost to each second of communication behind it", _FITTED
)
KERNELS_PER_LAYER_FORWARD = Constant(
    30.0, "kernels", "kernels of one layer's forward, eager", "counted on Hugging Face Llama"
)
KERNELS_PER_LAYER_BACKWARD = Constant(
    60.0, "kernels", "kernels of one layer's backward, eager", "counted on Hugging Face Llama"
)
ALLOCATOR_SLACK = Constant(0.04, "share", "activation memory that the caching allocator holds without use", "assumed")
COMMUNICATOR_BYTES = Constant(
    300e6, "bytes", "buffers of one communicator", "assumed from NCCL's default channels and buffer size"
)
CONTEXT_BYTES = Constant(600e6, "bytes", "CUDA context and loaded kernels", "assumed")
CPU_ATTENTION_FRACTION = Constant(
    0.5, "share of peak", "fused attention on a CPU over its measured matmul rate", "assumed"
)
HOST_MEMORY_FRACTION = Constant(
    0.6, "share of peak", "share of host memory bandwidth that an optimizer step reaches", "assumed"
)
INTERVAL_80_LOW = Constant(0.85, "factor", "measured over predicted step time, 10% quantile", _FITTED)
INTERVAL_80_HIGH = Constant(1.25, "factor", "measured over predicted step time, 90% quantile", _FITTED)
INTERVAL_95_LOW = Constant(0.7, "factor", "measured over predicted step time, 2.5% quantile", _FITTED)
INTERVAL_95_HIGH = Constant(1.6, "factor", "measured over predicted step time, 97.5% quantile", _FITTED)
