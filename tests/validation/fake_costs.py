"""A cost model with round numbers, so that what benchmarks add to it shows by itself."""

from shardwright.base.errors import SpecError
from shardwright.specs.cluster import ClusterSpec, Host, Link, NodeGroup
from shardwright.specs.device import Device
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import Plan
from shardwright.specs.results.estimate import Estimate, Interval, MemoryBytes, StepSeconds
from shardwright.specs.training import TrainingSpec

DEVICES = {"H100-SXM-80GB": 1000e12, "A100-SXM-80GB": 300e12, "V100-SXM-32GB": 100e12}
MEMORY_BYTES = 80e9
HOST_BYTES = 1000e9


def standard_node(device: str) -> NodeGroup:
    """Eight devices of a round peak behind eight 200 Gb/s NICs.

    Raises:
        SpecError: not one of `DEVICES`.
    """
    if device not in DEVICES:
        raise SpecError(f"no device '{device}'")
    peak = DEVICES[device]
    return NodeGroup(
        device=Device(
            name=device,
            memory_bytes=MEMORY_BYTES,
            memory_bytes_per_s=2e12,
            peak_flops_per_s={"bf16": peak, "fp16": peak, "tf32": peak / 2, "fp32": peak / 10},
        ),
        nodes=1,
        devices_per_node=8,
        intra_node=Link(kind="nvswitch", bytes_per_s=300e9, latency_seconds=1e-6),
        host_link=Link(kind="pcie", bytes_per_s=25e9, latency_seconds=1e-6),
        nics_per_node=8,
        nic=Link(kind="infiniband", bytes_per_s=25e9, latency_seconds=5e-6),
        host=Host(cores=64, memory_bytes=HOST_BYTES, memory_bytes_per_s=200e9),
    )


def cluster(nodes: int = 1, device: str = "H100-SXM-80GB") -> ClusterSpec:
    """`nodes` standard nodes."""
    return ClusterSpec(
        name=f"{device} x {8 * nodes}", groups=(standard_node(device).model_copy(update={"nodes": nodes}),)
    )


def estimate_plan(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plan: Plan) -> Estimate:
    """Half of the peak, plus 10% for each further microbatch sequence, recompute at a third of the compute.

    Memory: 16 bytes a parameter over the ranks that share it, activations of 1 GB a sequence without recompute.

    Raises:
        SpecError: the plan holds another number of layers than the model.
    """
    if plan.layer_count != model.layer_count:
        raise SpecError(f"the plan holds {plan.layer_count} layers and the model {model.layer_count}")
    mesh, device = plan.mesh, cluster.groups[0].device
    flops = 6.0 * model.parameter_count * training.tokens_per_step
    compute = flops / (mesh.ranks * device.peak_flops_per_s[training.precision.compute] * 0.5)
    layers = [layer for stage in plan.stages for layer in stage.each_layer()]
    recomputed = sum({"none": 0.0, "selective": 0.1, "full": 1.0}[layer.recompute] for layer in layers) / len(layers)
    step = StepSeconds(
        compute=compute * (1 + 0.1 * (plan.micro_batch - 1)),
        recompute=compute * recomputed / 3,
        tensor_parallel=0.1 * compute * (mesh.tp > 1),
        data_parallel=0.0,
        pipeline_transfer=0.0,
        pipeline_bubble=compute * (mesh.pp - 1) / plan.microbatches,
        straggler=0.0,
        host_copy=0.0,
        optimizer=0.0,
    )
    seconds = step.total
    shard = mesh.dp_shard if plan.zero_stage == 3 else 1
    static = 16.0 * model.parameter_count / (mesh.tp * mesh.pp * shard)
    memory = MemoryBytes(
        parameters=static,
        gathered_parameters=0.0,
        gradients=0.0,
        optimizer_state=0.0,
        optimizer_step=0.0,
        activations=1e9 * plan.micro_batch * (1 - recomputed),
        logits=0.0,
        communication_buffers=0.0,
        allocator_slack=0.0,
        communicators=0.0,
        context=0.0,
    )
    hardware_flops = flops * (1 + recomputed / 3)
    peak = mesh.ranks * device.peak_flops_per_s[training.precision.compute]
    return Estimate(
        step=step,
        step_seconds_intervals=(
            Interval(level=0.8, low=0.8 * seconds, high=1.25 * seconds),
            Interval(level=0.95, low=0.5 * seconds, high=2 * seconds),
        ),
        memory=(memory,) * mesh.pp,
        host_bytes=(0.0,) * mesh.pp,
        tokens_per_s=training.tokens_per_step / seconds,
        model_flops=flops,
        hardware_flops=hardware_flops,
        mfu=flops / seconds / peak,
        hfu=hardware_flops / seconds / peak,
        device_count=mesh.ranks,
        basis="catalog",
    )
