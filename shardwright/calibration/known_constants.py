"""The priors of the fit: what is known of the cost model's constants without any training run."""

from typing import NamedTuple


class Known(NamedTuple):
    """`value`, and `spread`: the standard deviation of its logarithm. `source`: where that is from."""

    value: float
    spread: float
    source: str


KNOWN = {
    "matmul_fraction": Known(0.92, 0.08, "a layer's shapes against the best of a search: somewhat below it"),
    "hopper_matmul_fraction": Known(0.84, 0.10, "the same; the clock also falls under sustained load"),
    "matmul_k_half": Known(160.0, 0.30, "a tile's prologue and epilogue take about as long as a few hundred elements of k"),
    "memory_fraction": Known(0.80, 0.06, "elementwise kernels reach 70% to 90% of the data-sheet bandwidth"),
    "attention_fraction": Known(0.47, 0.25, "early fused kernels reach about half of what a matmul does"),
    "older_kernel_fraction": Known(0.60, 0.06, "Ampere's matrix instructions reach about 60% of Hopper's rate"),
    "attention_head_half": Known(43.0, 0.40, "fused kernels for heads of 64 are a tenth to a quarter slower than of 128"),
    "attention_backward_fraction": Known(0.75, 0.10, "published kernel benchmarks have it between 0.6 and 0.9"),
    "loss_bytes_per_logit": Known(50.0, 0.15, "fp32 cast, softmax and their gradients, counted kernel by kernel: 40 to 60"),
    "broadcast_seconds": Known(1e-3, 1.0, "a small collective over many nodes takes between 0.3 and 3 ms"),
    "step_noise": Known(0.01, 0.50, "devices of one kind differ by about 1% in clock"),
    "collective_multiprocessors": Known(24.0, 0.25, "NCCL runs 16 to 32 channels, each on one multiprocessor"),
    "busy_nic_share": Known(0.75, 0.20, "bandwidth beside compute, against a benchmark's of nothing else"),
}  # fmt: skip
