"""One real layer of a model, measured and compared with its prediction: a check of the sum over operators."""

import contextlib
import statistics
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from shardwright.costmodel.layers import RowWork, WorkModel
from shardwright.costmodel.op_times import OpTimes
from shardwright.profiler.timing import (
    LiveBytes,
    Machine,
    UnavailableError,
    Work,
    footprint,
    freed_memory_is_kept,
    torch_dtype,
)
from shardwright.specs import POLICIES, Candidates, LayerCheck, TrainingSpec
from shardwright.specs.model import Block, MixtureOfExperts, ModelSpec

from .real_layer import RealLayer, layer_skeleton

Recompute = Literal["none", "full"]
_MEASURED_SECONDS = 1.0
_FEWEST, _MOST = 5, 50


def check_layer(
    model: ModelSpec,
    training: TrainingSpec,
    micro_batch: int,
    *,
    machine: Machine,
    times: OpTimes,
) -> list[LayerCheck]:
    """Measure every layer class of `model`, without and with full recompute.

    A rank of `times.node` computes `micro_batch` sequences.

    Raises:
        SpecError: no layer of the model can be built from its config.
        UnavailableError: it does not fit in free memory, or transformers is not installed.
    """
    dtype = torch_dtype(training.precision.compute, machine.device)
    predicted = WorkModel(model, training, times, one_rank(micro_batch))
    checks: list[LayerCheck] = []
    with freed_memory_is_kept() if machine.device.type == "cpu" else contextlib.nullcontext():
        for block in model.layer_classes:
            _ask_for_memory(model, block, training, micro_batch, machine)
            layer = layer_skeleton(model, block, training, micro_batch, dtype).build(machine.device)
            row = predicted.layer(block)
            for recompute in ("none", "full"):
                measured = _measure(layer, recompute, machine)
                checks.append(_beside(measured, row, recompute, _name(model, block), training, micro_batch))
    return checks


@dataclass(frozen=True)
class _Measured:
    forward_seconds: float
    backward_seconds: float
    activation_bytes: float


def _measure(layer: RealLayer, recompute: Recompute, machine: Machine) -> _Measured:
    again = recompute == "full"
    forward = _median_seconds(lambda: layer.forward(recompute=again), machine)
    backward = _median_seconds(_backward(layer, recompute=again), machine)
    return _Measured(forward, backward, kept_bytes(layer, recompute=again))


def _backward(layer: RealLayer, *, recompute: bool) -> Work:
    out = layer.forward(recompute=recompute)
    gradient = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, layer.leaves, gradient, retain_graph=True, allow_unused=True)


def kept_bytes(layer: RealLayer, *, recompute: bool = False) -> float:
    """Return the bytes that autograd keeps from a forward pass to the backward one.

    They are the layer's input, where it is needed, and results computed from it. Weights, and tables that all layers
    share, are not counted.
    """
    if recompute:
        live = LiveBytes()
        with live:
            out = layer.forward(recompute=True)
            return live.now - _bytes(out) + _bytes(layer.hidden)
    shared = {_address(tensor) for tensor in _tensors(layer.arguments, *layer.options.values())}
    shared |= {_address(weight) for weight in layer.layer.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if _address(tensor) not in shared:
            kept[_address(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer.forward()
    return float(sum(kept.values()))


def _tensors(*values: object) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple):
            found += _tensors(*value)
    return found


def _bytes(tensor: Tensor) -> float:
    return float(tensor.untyped_storage().nbytes())


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _median_seconds(work: Work, machine: Machine) -> float:
    (once,) = machine.seconds(work, 1)
    repeats = int(min(max(_MEASURED_SECONDS / max(once, 1e-9), _FEWEST), _MOST))
    return statistics.median(machine.seconds(work, repeats))


def _ask_for_memory(model: ModelSpec, block: Block, training: TrainingSpec, micro_batch: int, machine: Machine) -> None:
    """Check memory: run both passes first on tensors without storage.

    Raises:
        UnavailableError: they need more than is free.
    """

    dtype = torch_dtype(training.precision.compute, machine.device)
    # without storage, torch's grouped matmuls of experts accept only bf16
    rehearsed = torch.bfloat16 if isinstance(block.ffn, MixtureOfExperts) else dtype
    skeleton = layer_skeleton(model, block, training, micro_batch, rehearsed)

    def make() -> Work:
        layer = skeleton.build(machine.device)

        def both() -> object:
            out = layer.forward()
            return torch.autograd.grad(out, layer.leaves, torch.empty_like(out), allow_unused=True)

        return both

    with FakeTensorMode(allow_non_fake_inputs=True):
        found = footprint(make)
    wider = dtype.itemsize / rehearsed.itemsize
    needed_bytes, free_bytes = wider * (found.operands_bytes + found.working_bytes), machine.free_bytes()
    if needed_bytes > free_bytes:
        raise UnavailableError(
            f"one layer of {model.name} needs {needed_bytes / 1e9:.2f} GB, {free_bytes / 1e9:.2f} GB are free; give a smaller micro batch or a shorter sequence"
        )


def one_rank(micro_batch: int) -> Candidates:
    """Return the plan of a single rank."""
    one = np.array([1])
    return Candidates(
        pp=one,
        dp_replicate=one,
        dp_shard=one,
        tp=one,
        micro_batch=np.array([micro_batch]),
        microbatches=one,
        stages_per_rank=one,
        zero_stage=np.array([0]),
        sequence_parallel=np.array([0]),
        offload_optimizer=np.array([0]),
    )


def _name(model: ModelSpec, block: Block) -> str:
    """Return a name that distinguishes layer classes where there are several."""
    if len(model.layer_classes) == 1:
        return model.name
    return f"{model.name} (layer {model.class_of_layer.index(model.layer_classes.index(block))})"


def _beside(
    measured: _Measured, row: RowWork, recompute: Recompute, name: str, training: TrainingSpec, micro_batch: int
) -> LayerCheck:
    policy = POLICIES.index(recompute)
    return LayerCheck(
        model=name,
        seq_len=training.seq_len,
        micro_batch=micro_batch,
        format=training.precision.compute,
        recompute=recompute,
        forward_seconds=measured.forward_seconds,
        backward_seconds=measured.backward_seconds,
        activation_bytes=measured.activation_bytes,
        predicted_forward_seconds=float(row.forward_seconds[0]),
        predicted_backward_seconds=float(row.backward_seconds[0] + row.recompute_seconds_by_policy[0, policy]),
        predicted_activation_bytes=float(row.activation_bytes_by_policy[0, policy]),
    )
