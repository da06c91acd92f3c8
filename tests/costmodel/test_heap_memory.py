"""What a CPU process's heap holds beside its tensors."""

import pytest

from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.evaluate import plan_costs
from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.plan_costs import PlanCosts
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import POLICIES, LayerRun, Plan, RecomputePolicy, Stage
from shardwright.specs.profile import Figure, MachineFingerprint, Profile
from shardwright.specs.results.estimate import MemoryBytes
from shardwright.specs.training import Precision, TrainingSpec

MODEL = load_model("qwen3-demo")
FINGERPRINT = MachineFingerprint(
    device="a CPU",
    kind="cpu",
    device_memory_bytes=1e10,
    torch="2.13",
    python="3.11",
    host="here",
    cores=2,
    threads=2,
    ranks=1,
    date="2026-01-02",
)


def on_a_cpu() -> ClusterSpec:
    cluster = load_cluster("h100-sxm:1")
    device = cluster.groups[0].device.model_copy(update={"kind": "cpu"})
    group = cluster.groups[0].model_copy(update={"device": device})
    return cluster.model_copy(update={"groups": (group,)})


def costs(
    cluster: ClusterSpec, *, microbatches: int, compute: str = "fp32", recompute: RecomputePolicy = "none"
) -> PlanCosts:
    plan = Plan(
        mesh=Mesh(),
        micro_batch=2,
        microbatches=microbatches,
        stages=(Stage(layers=(LayerRun(count=MODEL.layer_count, recompute=recompute),)),),
    )
    precision = Precision.parse({"compute": compute}, source="test")
    training = TrainingSpec(seq_len=128, global_batch=2 * microbatches, precision=precision)
    return plan_costs(MODEL, cluster, training, plan)


def memory(cluster: ClusterSpec, *, microbatches: int, compute: str = "fp32") -> MemoryBytes:
    return costs(cluster, microbatches=microbatches, compute=compute).memory()[0]


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_the_heap_holds_gathered_copies_and_gradients_twice(compute: str) -> None:
    found = memory(on_a_cpu(), microbatches=1, compute=compute)
    assert found.gathered_parameters > 0
    assert found.allocator_slack == pytest.approx(found.gathered_parameters + found.gradients)


def test_later_microbatches_find_a_part_of_what_the_first_one_left() -> None:
    found = memory(on_a_cpu(), microbatches=2)
    again = CALIBRATED.heap_slack * (found.activations + found.logits)
    assert found.allocator_slack == pytest.approx(found.gathered_parameters + found.gradients + again)


def test_more_microbatches_than_two_take_no_more() -> None:
    assert memory(on_a_cpu(), microbatches=4).total == pytest.approx(memory(on_a_cpu(), microbatches=2).total)


def test_a_search_counts_it_as_held_over_the_whole_step() -> None:
    found = costs(on_a_cpu(), microbatches=1).sums.tables.static
    tensors = found.parameters + found.gathered + found.gradients + found.optimizer_state
    assert (found.stays - tensors).sum() == pytest.approx((found.gathered + found.gradients).sum())
    assert (found.unplaced > 0).any()


def test_a_layer_that_is_computed_again_finds_a_part_of_its_room() -> None:
    heap, gpu = (
        costs(cluster, microbatches=1, recompute="full") for cluster in (on_a_cpu(), load_cluster("h100-sxm:1"))
    )
    none, full = POLICIES.index("none"), POLICIES.index("full")
    once, more = (
        each.sums.tables.working_bytes[0, 0, full] - each.sums.tables.working_bytes[0, 0, none] for each in (gpu, heap)
    )
    assert more == pytest.approx((1 + CALIBRATED.heap_slack) * once)


def test_what_a_process_holds_by_itself_is_read_from_a_profile() -> None:
    cluster = on_a_cpu()
    figure = Figure(value=1.5e9, unit="bytes", meaning="a process")
    profile = Profile(fingerprint=FINGERPRINT, figures={"context_bytes": figure})
    group = cluster.groups[0].model_copy(update={"profile": profile})
    profiled = cluster.model_copy(update={"groups": (group,)})
    assert memory(profiled, microbatches=1).context == 1.5e9
    group = group.model_copy(update={"profile": profile.model_copy(update={"figures": {}})})
    without = profiled.model_copy(update={"groups": (group,)})
    assert memory(without, microbatches=1).context == memory(cluster, microbatches=1).context


def test_a_caching_allocator_holds_a_share_of_what_comes_and_goes() -> None:
    found = memory(load_cluster("h100-sxm:1"), microbatches=2)
    moving = found.activations + found.logits + found.communication_buffers
    assert found.allocator_slack == pytest.approx(CALIBRATED.allocator_slack * moving)
