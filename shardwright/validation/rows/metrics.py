"""Converts between a table's metrics and step seconds.

Every metric of `published/README.md` is either proportional to the step time or to its inverse, so one factor converts
both ways. Where a metric counts FLOPs, the factor holds the count by the source's own convention.
"""

import re
from typing import NamedTuple

from shardwright.costmodel.layers import model_flops_per_sequence
from shardwright.specs import ClusterSpec, Trainable, TrainingSpec
from shardwright.specs.model import ModelSpec
from shardwright.validation.table import SkippedRowError, TableRow


class Metric(NamedTuple):
    """The metric of the table's `name`: `value = factor * seconds`, or `factor / seconds` where `is_rate`."""

    name: str
    factor: float
    is_rate: bool

    def value(self, step_seconds: float) -> float:
        return self.factor / step_seconds if self.is_rate else self.factor * step_seconds

    def step_seconds(self, value: float) -> float:
        return self.factor / value if self.is_rate else value / self.factor


class MeasuredStep(NamedTuple):
    """The step time that a row measured, and the metric that it was published in."""

    metric: Metric
    seconds: float


class NoStep(NamedTuple):
    """A row without a step time; `reason` says why."""

    reason: str


_NO_STEP = {
    "peak_mem_gb": "memory only: the row has no step time",
    "ms_fwd_bwd_one_layer": "one layer's time: not a training step",
}
_PEAK = re.compile(r"peak ([1-9]\d*(?:\.\d+)?) ?TFLOP")
# Where nothing else is said: Megatron's training.py (num_floating_point_operations since 2023), NeMo's perf_metrics.py (24.03),
# torchtitan's get_num_flop_per_token (utils.py), which has no recompute either, and AutoModel's utils/flops_utils.py.
_COUNT_MODEL_FLOPS = re.compile(r"nemo|megatron-?core|mcore|megatron-?bridge|torchtitan|automodel", re.IGNORECASE)
_MEGATRON_LM = re.compile(r"megatron(?!.*deepspeed)", re.IGNORECASE)
_FIRST_YEAR_OF_MODEL_FLOPS = 2024
_SIX_N = re.compile(r"6 ?\*? ?n ?\*? ?[td]\b")


def measured_step(
    row: TableRow, model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec
) -> MeasuredStep | NoStep:
    """The row's own metric as step seconds."""
    if row.metric_value is None:
        return NoStep("metric_value unknown")
    try:
        metric = _metric_of_row(row, model, cluster, training)
    except SkippedRowError as reason:
        return NoStep(str(reason))
    return MeasuredStep(metric, metric.step_seconds(row.metric_value))


def _metric_of_row(row: TableRow, model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec) -> Metric:
    """The conversion for the row's own metric.

    Raises:
        SkippedRowError: the metric is not of a step, its scope is not stated, or its FLOPs convention is not known.
    """
    name, devices = row.metric_name, cluster.devices
    if name is None:
        raise SkippedRowError("metric_name unknown")
    if name in _NO_STEP:
        raise SkippedRowError(_NO_STEP[name])
    of_batch = _time_and_batch_metrics(training, devices)
    if name in of_batch:
        return of_batch[name]
    if name == "tokens_per_s":
        if devices > 1:
            raise SkippedRowError("tokens/s: per device or in total is not stated")
        return of_batch["tokens_per_s_total"]._replace(name=name)
    if name not in ("tflops_per_gpu", "mfu_pct"):
        raise SkippedRowError(f"metric '{name}' is not known")
    whole = 1e12 if name == "tflops_per_gpu" else _peak_flops_per_s(row, cluster, training) / 100
    return Metric(name, counted_flops(row, model, training) / devices / whole, is_rate=True)


def _time_and_batch_metrics(training: TrainingSpec, devices: int) -> dict[str, Metric]:
    """The metrics that need only the batch, by every name in use."""
    tokens, sequences = float(training.tokens_per_step), float(training.global_batch)
    kinds = (
        (("s_per_iter", "step_time_s"), 1.0, False),
        (("ms_per_iter", "step_time_ms"), 1e3, False),
        (("iter_per_s", "steps_per_s"), 1.0, True),
        (("tokens_per_s_per_gpu",), tokens / devices, True),
        (("tokens_per_s_total",), tokens, True),
        (("sequences_per_s", "samples_per_s"), sequences, True),
        (("sequences_per_s_per_gpu", "samples_per_s_per_gpu"), sequences / devices, True),
    )
    return {name: Metric(name, factor, is_rate) for names, factor, is_rate in kinds for name in names}


def counted_flops(row: TableRow, model: ModelSpec, training: TrainingSpec) -> float:
    """FLOPs of one step as the row's source counts them.

    With F the forward of the layers and H that of the head, s the sequence length, T the tokens of a step, L the
    layers, h the hidden size and N the parameters:
    - "SC21", Narayanan et al. 2021, equation 3: 96 B s l h^2 (1 + s/6h + V/16lh) = 4 F + 3 H, including the
      recomputed forward; without recompute 3 F + 3 H.
    - "model FLOPs" (Megatron-Core, nanotron): 3 F + 3 H. So do an MFU, NeMo, Megatron since 2024 and torchtitan without a stated
      convention.
    - "6*N*T + 12*L*..." (llm-foundry): 6 N T + 12 L h s T; "6*N*T" or "6ND" alone: 6 N T.
    - "recompute counted" (BigScience): 8 N T.
    All count attention in full, not halved for the causal mask, and only the experts that a token uses.

    Raises:
        SkippedRowError: the convention is none of these.
    """
    convention = (row.flops_convention or "").lower()
    tokens, parameters = training.tokens_per_step, model.active_parameter_count
    # whatever is frozen: sources count the FLOPs of the model
    counted = training.model_copy(update={"trainable": Trainable()})
    whole_model = training.global_batch * model_flops_per_sequence(model, counted)
    if "sc21" in convention:
        head = 6.0 * tokens * model.hidden_size * model.vocab_size
        again = 0.0 if row.recompute == "none" else (whole_model - head) / 3
        return whole_model + again
    if "model flops" in convention:
        return whole_model
    if _SIX_N.search(convention):
        attention = 12 * model.layer_count * model.hidden_size * training.seq_len if "12" in convention else 0
        return tokens * (6.0 * parameters + attention)
    if "recompute counted" in convention:
        return tokens * 8.0 * parameters
    # MFU by its definition (Chowdhery et al. 2022, appendix B)
    if row.metric_name == "mfu_pct" or _counts_model_flops(row):
        return whole_model
    raise SkippedRowError("how the source counts FLOPs is not known")


def _counts_model_flops(row: TableRow) -> bool:
    """Whether the software's own FLOP/s leave recompute out."""
    framework = row.framework or ""
    since = row.year is not None and row.year >= _FIRST_YEAR_OF_MODEL_FLOPS
    return bool(_COUNT_MODEL_FLOPS.search(framework) or (since and _MEGATRON_LM.search(framework)))


def _peak_flops_per_s(row: TableRow, cluster: ClusterSpec, training: TrainingSpec) -> float:
    if stated := _PEAK.search(row.flops_convention or ""):
        return float(stated[1]) * 1e12
    peaks = cluster.node.device.peak_flops_per_s
    if training.precision.compute not in peaks:
        raise SkippedRowError(f"the device's {training.precision.compute} peak is not known")
    return peaks[training.precision.compute]
