"""A table's metrics and step seconds, each from the other.

Every metric of `published/README.md` is either proportional to the step time or to its inverse, so one factor converts
both ways. Where a metric counts FLOPs, the factor holds the count by the source's own convention.
"""

import re
from typing import NamedTuple

from shardwright.costmodel import operators
from shardwright.costmodel.cluster import ClusterSpec
from shardwright.costmodel.model import ModelSpec
from shardwright.costmodel.training import TrainingSpec

from .skipped_row import SkippedRowError
from .table import TableRow


class Metric(NamedTuple):
    """`value = factor * seconds`, or `factor / seconds` where `is_rate`. `unit` as the table writes it."""

    unit: str
    factor: float
    is_rate: bool

    def value(self, step_seconds: float) -> float:
        return self.factor / step_seconds if self.is_rate else self.factor * step_seconds

    def step_seconds(self, value: float) -> float:
        return self.factor / value if self.is_rate else value / self.factor


_PEAK = re.compile(r"peak (\d+(?:\.\d+)?) ?TFLOP")


def metric_of_row(row: TableRow, model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec) -> Metric:
    """The conversion for the row's own metric.

    Raises:
        SkippedRowError: the metric is not of a step, its scope is not stated, or its FLOPs convention is not known.
    """
    tokens, sequences, devices = float(training.tokens_per_step), float(training.global_batch), cluster.devices
    unit = row.metric_unit or ""
    match row.metric_name:
        case "s_per_iter":
            return Metric(unit, 1.0, is_rate=False)
        case "ms_per_iter":
            return Metric(unit, 1e3, is_rate=False)
        case "tokens_per_s_per_gpu":
            return Metric(unit, tokens / devices, is_rate=True)
        case "tokens_per_s_total":
            return Metric(unit, tokens, is_rate=True)
        case "tokens_per_s":
            if devices > 1:
                raise SkippedRowError("tokens/s: per device or in total is not stated")
            return Metric(unit, tokens, is_rate=True)
        case "sequences_per_s":
            return Metric(unit, sequences, is_rate=True)
        case "tflops_per_gpu":
            return Metric(unit, counted_flops(row, model, training) / devices / 1e12, is_rate=True)
        case "mfu_pct":
            peak = _peak_flops_per_s(row, cluster, training)
            return Metric(unit, 100 * counted_flops(row, model, training) / devices / peak, is_rate=True)
        case "peak_mem_gb":
            raise SkippedRowError("memory only: the row has no step time")
        case "ms_fwd_bwd_one_layer":
            raise SkippedRowError("one layer's time: not a training step")
        case _:
            raise SkippedRowError(f"metric '{row.metric_name}' is not known")


def counted_flops(row: TableRow, model: ModelSpec, training: TrainingSpec) -> float:
    """FLOPs of one step as the row's source counts them.

    With F the forward of the layers and H that of the head, s the sequence length, T the tokens of a step, L the
    layers, h the hidden size and N the parameters, of experts those that a token passes through:
    - "SC21", Narayanan et al. 2021, equation 3: 96 B s l h^2 (1 + s/6h + V/16lh) = 4 F + 3 H, the recomputed forward
      counted; without recompute 3 F + 3 H.
    - "model FLOPs" (Megatron-Core, nanotron): 3 F + 3 H.
    - "6*N*T" (llm-foundry): 6 N T + 12 L h s T.
    - "recompute counted" (BigScience): 8 N T.
    All count attention in full, not halved for the causal mask.

    Raises:
        SkippedRowError: the convention is none of these.
    """
    convention = row.flops_convention or ""
    tokens = training.tokens_per_step
    layers, head = _forward_flops_per_token(model, training.seq_len)
    if "SC21" in convention:
        passes = 3 if row.recompute == "none" else 4
        return tokens * (passes * layers + 3 * head)
    if "model FLOPs" in convention:
        return tokens * 3 * (layers + head)
    if "6*N*T" in convention:
        attention = 12 * model.layer_count * model.hidden_size * training.seq_len
        return tokens * (6.0 * model.active_parameter_count + attention)
    if "recompute counted" in convention:
        return tokens * 8.0 * model.active_parameter_count
    raise SkippedRowError("how the source counts FLOPs is not known")


def _forward_flops_per_token(model: ModelSpec, seq_len: int) -> tuple[float, float]:
    """Forward FLOPs of (all layers, the head) for one token; attention in full, of the experts those it passes through."""
    layers, training = 0.0, TrainingSpec(seq_len=seq_len, global_batch=1)
    for run in model.blocks:
        matmuls = [
            *operators.attention_matmuls(run.block, model.hidden_size, 1, 1),
            *operators.ffn_matmuls(run.block, model.hidden_size, 1, 1),
        ]
        attention = operators.attention_core_flops(run.block, training, 1, 1, causal=False)
        layers += run.count * float(sum((matmul.flops for matmul in matmuls), attention))
    return layers, 2.0 * model.hidden_size * model.vocab_size


def _peak_flops_per_s(row: TableRow, cluster: ClusterSpec, training: TrainingSpec) -> float:
    if stated := _PEAK.search(row.flops_convention or ""):
        return float(stated[1]) * 1e12
    peaks = cluster.groups[0].device.peak_flops_per_s
    if training.precision.compute not in peaks:
        raise SkippedRowError(f"the device's {training.precision.compute} peak is not known")
    return peaks[training.precision.compute]
