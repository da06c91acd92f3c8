"""The priors of the fit: what is known of the cost model's constants without any training run."""

from typing import NamedTuple


class Known(NamedTuple):
    """`value`, and `spread`: the standard deviation of its logarithm. `source`: where that is from."""

    value: float
    spread: float
    source: str


KNOWN = {
    "matmul_fraction": Known(0.92, 0.08, "a layer's shapes against the best of a search, both at the clock that the power limit leaves: somewhat below it"),
    "blackwell_matmul_fraction": Known(0.92, 0.15, "the same; no sustained rate of a Blackwell is published"),
    "matmul_k_half": Known(160.0, 0.30, "a tile's prologue and epilogue take about as long as a few hundred elements of k"),
    "memory_fraction": Known(0.80, 0.06, "elementwise kernels reach 70% to 90% of the data-sheet bandwidth"),
    "flash_1_fraction": Known(0.52, 0.15, "FlashAttention-2 (arXiv 2307.08691, figure 5): the kernels before it at 90 to 140 TFLOP/s on A100, less the softmax of FlashAttention-2"),
    "flash_2_softmax": Known(1.47, 0.10, "the same figure: 202 TFLOP/s causal, heads of 128, 16k tokens"),
    "flash_3_softmax": Known(1.05, 0.15, "FlashAttention-3 (arXiv 2407.08608, figure 5): cuDNN 539 (1.30), FlashAttention-3 616 TFLOP/s (0.85) causal, heads of 128, 16k tokens"),
    "older_kernel_fraction": Known(0.53, 0.05, "the same figure: FlashAttention-2 at 335 TFLOP/s with 16k tokens, less its softmax; 0.63 without one (mma on Hopper, arXiv 2402.13499)"),
    "attention_backward_fraction": Known(0.73, 0.06, "backward, less the softmax: FlashAttention-2 at 63% of an A100's peak (arXiv 2307.08691, section 4.1) gives 0.77, FlashAttention-3 at 561 TFLOP/s (arXiv 2407.08608, figure 6) 0.72, FlashAttention-4 at 1209 (its pull request 2280) 0.70"),
    "loss_bytes_per_logit": Known(50.0, 0.15, "fp32 cast, softmax and their gradients, counted kernel by kernel: 40 to 60"),
    "broadcast_seconds": Known(1e-3, 1.0, "a small collective over many nodes takes between 0.3 and 3 ms"),
    "busy_nic_share": Known(0.75, 0.20, "bandwidth beside compute, against a benchmark's of nothing else"),
}  # fmt: skip
