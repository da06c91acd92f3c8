"""Laws that an estimate obeys for any valid run."""

import math
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings

from shardwright.costmodel.evaluate import estimate_plan, simulate_plan
from shardwright.costmodel.layers import operators
from shardwright.costmodel.layers.core import attention_core_flops
from shardwright.costmodel.op_times.operand_formats import OPERANDS
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.mesh import Mesh
from shardwright.specs.results.estimate import Estimate
from tests.laws.valid_runs import Run, runs

many = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def estimate(run: Run, cluster: ClusterSpec | None = None) -> Estimate:
    return estimate_plan(run.model, cluster or run.cluster, run.training, run.plan)


@many
@given(runs())
def test_closed_form_and_simulation_agree_within_one_percent(run: Run) -> None:
    timeline = simulate_plan(run.model, run.cluster, run.training, run.plan)
    assert estimate(run).step_seconds == pytest.approx(timeline.step_seconds, rel=0.01)


@many
@given(runs())
def test_every_number_is_finite_and_not_negative(run: Run) -> None:
    found = estimate(run)
    numbers = [*dict(found.step).values(), *found.host_bytes, found.tokens_per_s, found.mfu, found.hfu]
    numbers += [size for part in found.memory for _, size in part]
    assert all(math.isfinite(number) and number >= 0 for number in numbers)
    assert found.step_seconds > 0


@many
@given(runs())
def test_the_step_lies_between_its_bounds(run: Run) -> None:
    """No faster than the FLOPs that must be computed at the highest peak in use; no slower than all work in turn."""
    found = estimate(run)
    precision, peaks = run.training.precision, run.cluster.groups[0].device.peak_flops_per_s
    peak = peaks[OPERANDS[precision.linear].peak if precision.linear else precision.compute]
    kept = min(1.0, run.training.expert_capacity or 1.0)  # a capacity below 1 drops tokens
    assert found.step_seconds >= kept * _least_flops(run) / (peak * run.plan.mesh.ranks) * (1 - 1e-9)
    parts = dict(found.step)
    busiest = sum(seconds for name, seconds in parts.items() if not name.startswith("pipeline"))
    slots = run.plan.mesh.pp * run.plan.microbatches + run.plan.mesh.pp
    sends = found.step.pipeline_transfer
    assert found.step_seconds <= slots * busiest + sends + 1e-9


def _least_flops(run: Run) -> float:
    """Model FLOPs of a step, of attention the keys alone that causality and a window leave.

    Frozen weights have no gradient, and a frozen layer below the trained ones has no backward.
    """
    model, training, tokens = run.model.trained_as(run.training.trainable), run.training, run.training.seq_len
    trainable = training.trainable
    head = (2.0 + trainable.trains_head) * 2.0 * tokens * model.hidden_size * model.vocab_size
    layers, trained = 0.0, 2.0 + trainable.trains_layer_weights
    for part in model.blocks:
        matmuls = [
            *operators.attention_matmuls(part.block, model.hidden_size, tokens, 1),
            *operators.ffn_matmuls(part.block, model.hidden_size, tokens, 1),
        ]
        core = attention_core_flops(part.block, training, tokens, 1, causal=True)
        weights = float(sum(matmul.flops for matmul in matmuls))
        whole = weights + float(core) if part.block.frozen else trained * weights + 3.0 * float(core)
        layers += part.count * whole
    return training.global_batch * (layers + head)


def _faster(change: str) -> Callable[[ClusterSpec], ClusterSpec]:
    def apply(cluster: ClusterSpec) -> ClusterSpec:
        group = cluster.groups[0]
        device, nic, inside, host = group.device, group.nic, group.intra_node, group.host_link
        if change == "peak":
            peaks = {name: 2 * rate for name, rate in device.peak_flops_per_s.items()}
            group = group.model_copy(update={"device": device.model_copy(update={"peak_flops_per_s": peaks})})
        elif change == "memory":
            wide = device.model_copy(update={"memory_bytes_per_s": 2 * device.memory_bytes_per_s})
            group = group.model_copy(update={"device": wide})
        elif change == "fabric":
            assert nic is not None
            group = group.model_copy(update={"nic": nic.model_copy(update={"bytes_per_s": 2 * nic.bytes_per_s})})
        elif change == "node link":
            wide_link = inside.model_copy(update={"bytes_per_s": 2 * inside.bytes_per_s})
            group = group.model_copy(update={"intra_node": wide_link})
        else:
            wide_link = host.model_copy(update={"bytes_per_s": 2 * host.bytes_per_s})
            group = group.model_copy(update={"host_link": wide_link})
        return cluster.model_copy(update={"groups": (group,)})

    return apply


@pytest.mark.parametrize("change", ["peak", "memory", "fabric", "node link", "host link"])
@settings(many, max_examples=40)
@given(runs())
def test_faster_hardware_is_never_slower(change: str, run: Run) -> None:
    faster = _faster(change)(run.cluster)
    if change == "peak":  # a device that crosses into the class that can't hold its clock is another device
        crosses = [_is_fast(run.cluster), _is_fast(faster)]
        if crosses[0] != crosses[1]:
            return
    assert estimate(run, faster).step_seconds <= estimate(run).step_seconds * (1 + 1e-9)


def _is_fast(cluster: ClusterSpec) -> bool:
    return cluster.groups[0].device.peak_flops_per_s["bf16"] > 500e12


@settings(many, max_examples=100)
@given(runs())
def test_model_flops_do_not_depend_on_the_split(run: Run) -> None:
    alone = Mesh()
    layers = tuple(layer.model_copy(update={"zero_stage": 0}) for stage in run.plan.stages for layer in stage.layers)
    single = run.plan.model_copy(
        update={
            "mesh": alone,
            "schedule": "1f1b",
            "microbatches": run.plan.microbatches * run.plan.mesh.dp,
            "stages": (run.plan.stages[0].model_copy(update={"layers": layers}),),
        }
    )
    split, whole = estimate(run), estimate(run._replace(plan=single))
    assert split.model_flops == whole.model_flops
    assert split.hardware_flops == pytest.approx(whole.hardware_flops)
