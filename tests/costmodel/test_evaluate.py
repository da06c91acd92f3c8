"""Whole estimates: what adds up, what the parts mean, and a step worked out by hand."""

import numpy as np
import pytest

from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.evaluate import estimate_plan, plan_costs, simulate_plan
from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import LayerRun, Plan, Stage
from shardwright.specs.results.estimate import Estimate
from shardwright.specs.training import Precision, TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster, small_experts, small_model

LLAMA = load_model("llama-3.1-8b")
H100 = load_cluster("h100-sxm:64")
TRAINING = TrainingSpec(seq_len=4096, global_batch=64)


def plan(
    pp: int, *, chunks: int = 1, recompute: str = "none", zero: int = 1, tp: int = 2, schedule: str | None = None
) -> Plan:
    dp = 64 // pp // tp
    stages = pp * chunks
    each, rest = divmod(LLAMA.layer_count, stages)
    runs = [
        LayerRun.parse({"count": each + (index < rest), "recompute": recompute, "zero_stage": zero}, source="test")
        for index in range(stages)
    ]
    schedule = schedule or ("interleaved-1f1b" if chunks > 1 else "1f1b")
    return Plan.parse(
        {
            "mesh": Mesh(pp=pp, dp_shard=dp, tp=tp), "micro_batch": 1, "microbatches": 64 // dp,
            "schedule": schedule, "stages": [Stage(layers=(run,)) for run in runs],
        },
        source="test",
    )  # fmt: skip


def estimate(one: Plan) -> Estimate:
    return estimate_plan(LLAMA, H100, TRAINING, one)


PLANS = [
    plan(1),
    plan(1, zero=3, tp=1),
    plan(4),
    plan(4, chunks=2),
    plan(4, recompute="full"),
    plan(2, schedule="gpipe"),
    plan(4, schedule="zb-h1"),
    plan(4, schedule="zb-2p"),
    plan(4, chunks=2, schedule="zb-v"),
    plan(4, chunks=2, schedule="v-half"),
    plan(4, chunks=2, schedule="dualpipe-v"),
]


@pytest.mark.parametrize("one", PLANS, ids=lambda one: f"{one.mesh} {one.schedule}")
class TestEveryPlan:
    def test_closed_form_equals_the_simulation(self, one: Plan) -> None:
        assert estimate(one).step_seconds == pytest.approx(
            simulate_plan(LLAMA, H100, TRAINING, one).step_seconds, rel=0.01
        )

    def test_memory_equals_the_simulations_peak(self, one: Plan) -> None:
        """The simulation counts activations as they come and go; working memory and slack are the estimate's."""
        timeline, memory = simulate_plan(LLAMA, H100, TRAINING, one), estimate(one).memory
        for curve, part in zip(timeline.memory, memory, strict=True):
            assert curve.peak_bytes <= part.total * (1 + 1e-9)
            assert curve.peak_bytes > 0.8 * part.total

    def test_rates_agree_with_each_other(self, one: Plan) -> None:
        found = estimate(one)
        assert found.tokens_per_s * found.step_seconds == pytest.approx(TRAINING.tokens_per_step)
        peak = 64 * H100.groups[0].device.peak_flops_per_s["bf16"]
        assert found.mfu == pytest.approx(found.model_flops / (found.step_seconds * peak))
        assert 0 < found.mfu <= found.hfu < 1

    def test_no_step_beats_the_peak(self, one: Plan) -> None:
        found = estimate(one)
        assert found.step.compute >= found.model_flops * 0.8 / (64 * H100.groups[0].device.peak_flops_per_s["bf16"])


def test_recompute_trades_time_for_memory() -> None:
    kept, again = estimate(plan(4)), estimate(plan(4, recompute="full"))
    assert again.step_seconds > kept.step_seconds
    assert again.peak_memory_bytes < kept.peak_memory_bytes
    assert again.hfu > again.mfu
    assert kept.hfu == kept.mfu


def test_interleaving_shrinks_the_bubble() -> None:
    assert estimate(plan(4, chunks=2)).step.pipeline_bubble < estimate(plan(4)).step.pipeline_bubble


def test_a_split_backward_shrinks_the_bubble_within_the_memory_of_1f1b() -> None:
    flat, split = estimate(plan(4)), estimate(plan(4, schedule="zb-h1"))
    assert split.step.pipeline_bubble < 0.6 * flat.step.pipeline_bubble
    assert split.memory[0] == flat.memory[0]
    assert split.step.compute == flat.step.compute


def test_what_full_recompute_computed_again_stays_until_the_weight_gradient() -> None:
    """So that the last of four ranks, which postpones by three microbatches, holds three layers' worth whole."""
    flat, split = (estimate(plan(4, recompute="full", schedule=name)) for name in ("1f1b", "zb-h1"))
    whole = plan_costs(LLAMA, H100, TRAINING, plan(4)).activation_bytes_per_stage()
    assert split.memory[3].activations - flat.memory[3].activations > 2 * whole[3] - split.memory[3].logits
    assert split.memory[3].total < estimate(plan(4, schedule="gpipe")).memory[3].total


def test_a_v_puts_the_head_on_the_first_rank_and_sends_nothing_where_it_turns() -> None:
    one = plan(4, chunks=2, schedule="zb-v")
    found, loop = estimate(one), estimate(plan(4, chunks=2))
    assert [part.logits > 0 for part in found.memory] == [True, False, False, False]
    assert [part.logits > 0 for part in loop.memory] == [False, False, False, True]
    sends = plan_costs(LLAMA, H100, TRAINING, one).stage_costs().send
    assert sends[3] == 0
    assert (np.delete(sends, 3) > 0).all()


def test_overlapped_passes_hide_their_tensor_parallelism_where_the_stack_overlaps_them() -> None:
    overlaps = TRAINING.model_copy(update={"stack": "dualpipe"})
    pairs = plan(4, chunks=2, schedule="dualpipe-v")
    alone, paired = (estimate_plan(LLAMA, H100, training, pairs) for training in (TRAINING, overlaps))
    assert paired.step.tensor_parallel < 0.8 * alone.step.tensor_parallel
    assert paired.step.compute == alone.step.compute
    assert paired.step_seconds == pytest.approx(simulate_plan(LLAMA, H100, overlaps, pairs).step_seconds, rel=1e-9)
    assert estimate_plan(LLAMA, H100, overlaps, plan(4)).step.compute == estimate(plan(4)).step.compute


def test_zero_3_holds_less_and_talks_more() -> None:
    sharded, kept = estimate(plan(1, zero=3, tp=1)), estimate(plan(1, zero=1, tp=1))
    assert sharded.memory[0].gathered_parameters < kept.memory[0].gathered_parameters / 5
    assert sharded.step.data_parallel > kept.step.data_parallel


def test_a_mix_of_zero_stages_lies_between_its_parts() -> None:
    def mixed(first: int, second: int) -> Estimate:
        runs = [LayerRun.parse({"count": 16, "zero_stage": zero}, source="test") for zero in (first, second)]
        return estimate(
            Plan(mesh=Mesh(dp_shard=64), micro_batch=1, microbatches=1, stages=(Stage(layers=tuple(runs)),))
        )

    low, middle, high = (mixed(*pair).peak_memory_bytes for pair in ((3, 3), (3, 2), (2, 2)))
    assert low < middle < high


def test_a_step_by_hand() -> None:
    """One rank, round times: four layers, the head, four microbatches, the optimizer free of charge."""
    model, seq = small_model(), 128
    one = Plan(mesh=Mesh(), micro_batch=1, microbatches=4, stages=(Stage(layers=(LayerRun(count=4),)),))
    found = estimate_plan(model, round_cluster(), TrainingSpec(seq_len=seq, global_batch=4), one, RoundTimes())
    weights = 64 * 128 + 64 * 64 + 3 * 64 * 128
    core = 2 * 2 * seq * (seq + 1) / 2 * 64
    layers = 4 * (6 * weights * seq + 3.5 * core)
    head = 6 * 64 * 1000 * seq
    assert found.step.compute == pytest.approx(4 * (layers + head) * 1e-12)
    assert found.step_seconds == found.step.compute
    assert found.basis == "catalog"


def test_an_update_in_bf16_moves_half() -> None:
    narrow = TRAINING.model_copy(update={"precision": Precision(parameters="bf16")})
    halved = estimate_plan(LLAMA, H100, narrow, plan(1)).step.optimizer
    assert halved == pytest.approx(estimate(plan(1)).step.optimizer / 2)


def test_intervals_hold_the_prediction_and_nest() -> None:
    found = estimate(plan(4))
    narrow, wide = found.step_seconds_intervals
    assert (narrow.level, wide.level) == (0.80, 0.95)
    assert wide.low < narrow.low < found.step_seconds < narrow.high < wide.high


def test_memory_by_hand_under_zero_3() -> None:
    """A rank gathers two rows at once, the embedding's 64,000 weights being the largest; the head's copy stays.
    Gradients as they are made, in 2 bytes, lie beside the copy that is reduced, in 4.

    The gradients of the only microbatch are gone in the loss, but the allocator keeps their room for the reduction's stream.
    """
    runs = (LayerRun(count=4, zero_stage=3),)
    one = Plan(mesh=Mesh(dp_shard=8), micro_batch=1, microbatches=1, stages=(Stage(layers=runs),))
    training = TrainingSpec(seq_len=128, global_batch=8)
    (memory,) = estimate_plan(small_model(), round_cluster(), training, one, RoundTimes()).memory
    window, head, buffer = 2 * 2 * 64_000, 2 * 64_064, (4 + 2) * 64_064
    assert memory.gathered_parameters == head + window
    assert (memory.communication_buffers, memory.communicators) == (buffer, 2 * CALIBRATED.communicator_bytes)
    moving = memory.activations + memory.logits + window + buffer
    weights = 4 * (64 * 128 + 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64_000 + 64_064
    assert memory.gradients == 0
    assert memory.allocator_slack == pytest.approx(CALIBRATED.gather_slack * moving + 4 * weights / 8)
    assert memory.parameters == pytest.approx(4 * weights / 8)
    assert memory.optimizer_state == pytest.approx(8 * weights / 8)


def test_memory_of_experts_by_hand() -> None:
    """Eight ranks, two for each quarter of the experts: those are sharded over two ranks, all else over eight."""
    runs = (LayerRun(count=4, zero_stage=1),)
    one = Plan(mesh=Mesh(dp_shard=8, ep=4), micro_batch=1, microbatches=1, stages=(Stage(layers=runs),))
    training = TrainingSpec(seq_len=128, global_batch=8)
    (memory,) = estimate_plan(small_experts(), round_cluster(), training, one, RoundTimes()).memory
    expert = 3 * 64 * 64
    rest = 4 * (64 * 128 + 64 * 64 + 2 * 64 + 64 * 8 + expert) + 64_000 + 64_064
    own_experts = 4 * 8 * expert / 4
    assert memory.parameters == pytest.approx(4 * (rest / 8 + own_experts / 2))
    assert memory.optimizer_state == pytest.approx(8 * (rest / 8 + own_experts / 2))
    assert memory.gathered_parameters == pytest.approx(2 * (rest + own_experts))
    assert memory.communication_buffers == 4 * 64_064
    assert memory.communicators == 3 * CALIBRATED.communicator_bytes  # of the shards, of the experts, of all ranks


def test_context_parallelism_shares_activations_and_shards_over_its_ranks() -> None:
    whole = plan(1, zero=3, tp=1)
    shared = whole.model_copy(update={"mesh": Mesh(dp_shard=16, cp=4), "microbatches": 4})
    found, alone = estimate(shared), estimate(whole)
    assert found.memory[0].parameters == pytest.approx(alone.memory[0].parameters)
    assert found.memory[0].logits == pytest.approx(alone.memory[0].logits / 4)
    assert found.step.context_parallel > 0
    assert found.model_flops == alone.model_flops
    assert found.step.compute == pytest.approx(alone.step.compute, rel=0.1)


def test_every_part_of_a_step_is_simulated_too() -> None:
    pipeline = Plan(
        mesh=Mesh(pp=2, dp_shard=2, cp=2, tp=2, ep=4),
        micro_batch=1,
        microbatches=4,
        stages=tuple(Stage(layers=(LayerRun(count=2, recompute="full", zero_stage=2),)) for _ in range(2)),
        context_parallel="ring",
        expert_dispatch="deduplicated",
    )
    training = TrainingSpec(seq_len=128, global_batch=8)
    cluster = round_cluster(nodes=4)
    run = (small_experts(), cluster, training, pipeline, RoundTimes(node=cluster.node))
    found = estimate_plan(*run)
    assert found.step.expert_parallel > 0 < found.step.context_parallel
    assert simulate_plan(*run).step_seconds == pytest.approx(found.step_seconds)


def test_fp8_is_faster_where_matmuls_are_large_and_mfu_counts_the_peak_of_bf16() -> None:
    lower = TRAINING.model_copy(update={"precision": Precision(linear="fp8")})
    one = plan(1, zero=3, tp=1)
    eight, sixteen = estimate_plan(LLAMA, H100, lower, one), estimate(one)
    assert 0.5 * sixteen.step.compute < eight.step.compute < sixteen.step.compute
    assert eight.mfu == pytest.approx(sixteen.mfu * sixteen.step_seconds / eight.step_seconds)


def test_a_split_vocabulary_gives_each_rank_an_equal_part_of_embedding_and_head() -> None:
    """Four stages of one layer each: the last computes the head alone, or all compute a quarter of it."""
    stages = tuple(Stage(layers=(LayerRun(count=1),)) for _ in range(4))
    ends = Plan(mesh=Mesh(pp=4), micro_batch=1, microbatches=8, stages=stages)
    training = TrainingSpec(seq_len=128, global_batch=8)
    job = (small_model(), round_cluster(), training)
    apart, spread = (
        plan_costs(*job, ends.model_copy(update={"vocabulary_parallel": kind}), RoundTimes())
        for kind in ("none", "vocab-2")
    )
    head = 2 * 64 * 1000 * 128 * 1e-12
    assert apart.stage_costs().forward[-1] - apart.stage_costs().forward[0] == pytest.approx(head)
    assert spread.stage_costs().forward == pytest.approx(np.full(4, apart.stage_costs().forward[0] + head / 4))
    parts = [part.parameters for part in spread.memory()]
    assert parts == pytest.approx([sum(part.parameters for part in apart.memory()) / 4] * 4)
    assert spread.estimate().step_seconds < apart.estimate().step_seconds


@pytest.mark.parametrize(("kind", "more"), [("vocab-1", [2, 2, 2, 2]), ("interlaced", [2, 1, 1, 0])])
def test_a_split_vocabulary_keeps_microbatches_in_flight(kind: str, more: list[int]) -> None:
    """Two at the barriers of algorithm 1. Half of the four, three, two and one of 1F1B in the interlaced pipeline."""
    stages = tuple(Stage(layers=(LayerRun(count=1),)) for _ in range(4))
    training = TrainingSpec(seq_len=128, global_batch=8)
    ends = Plan(mesh=Mesh(pp=4), micro_batch=1, microbatches=8, stages=stages, vocabulary_parallel="vocab-2")
    job = (small_model(), round_cluster(), training)
    one = plan_costs(*job, ends, RoundTimes())
    found = plan_costs(*job, ends.model_copy(update={"vocabulary_parallel": kind}), RoundTimes())
    each = one.activation_bytes_per_stage()
    held = [part.activations + part.logits for part in found.memory()]
    base = [part.activations + part.logits for part in one.memory()]
    assert np.subtract(held, base) == pytest.approx((np.array(more) - 1) * each)
    assert base[0] > (4 + 1) * each[0]  # the four of 1F1B's first rank, and the one at the barrier


def test_ranks_that_share_the_head_share_its_logits() -> None:
    """The last rank holds one microbatch either way; the first of 1F1B holds four."""
    stages = tuple(Stage(layers=(LayerRun(count=1),)) for _ in range(4))
    training = TrainingSpec(seq_len=128, global_batch=8, stack="megatron-core")
    apart = Plan(mesh=Mesh(pp=4), micro_batch=1, microbatches=8, stages=stages)
    shared = apart.model_copy(update={"vocabulary_parallel": "vocab-2"})
    job = (small_model().model_copy(update={"vocab_size": 100_000}), round_cluster(), training)
    alone, each = (
        [part.logits for part in plan_costs(*job, given, RoundTimes()).memory()] for given in (apart, shared)
    )
    assert alone[:3] == [0, 0, 0]
    assert each[3] == pytest.approx(alone[3] / 4)
    kept = plan_costs(*job, apart, RoundTimes()).sums.rows.activation.last[0, 0]
    assert each[0] == pytest.approx(each[3] + 3 * kept / 4)


@pytest.mark.parametrize(("kind", "more"), [("vocab-1", 2), ("vocab-2", 1)])
def test_v_half_with_a_split_vocabulary_holds_the_same_on_every_rank(kind: str, more: int) -> None:
    """(4 + 2) // 2 microbatches of both stages, and one more for each barrier in the loss."""
    stages = tuple(Stage(layers=(LayerRun(count=1),)) for _ in range(8))
    training = TrainingSpec(seq_len=128, global_batch=16)
    split = Plan(
        mesh=Mesh(pp=4), micro_batch=1, microbatches=16, schedule="v-half", stages=stages, vocabulary_parallel=kind
    )
    job = (small_model(layers=8), round_cluster(), training)
    found = plan_costs(*job, split, RoundTimes())
    both = 2 * found.activation_bytes_per_stage()[0]
    held = [part.activations + part.logits for part in found.memory()]
    assert held == pytest.approx([held[0]] * 4)
    assert (3 + more) * both < held[0] < (3 + more + 0.5) * both  # and the working memory of a backward
    assert found.estimate().step_seconds == pytest.approx(
        simulate_plan(*job[:2], training, split, RoundTimes()).step_seconds
    )
    whole = tuple(Stage(layers=(LayerRun(count=2),)) for _ in range(4))
    one = plan_costs(*job, split.model_copy(update={"schedule": "1f1b", "stages": whole}), RoundTimes())
    largest = max(part.activations + part.logits for part in one.memory())
    assert largest - held[0] == pytest.approx(both)  # 1F1B's first rank holds four microbatches, and as many more


def test_no_more_microbatches_wait_for_a_split_vocabulary_than_the_step_has() -> None:
    stages = tuple(Stage(layers=(LayerRun(count=1),)) for _ in range(4))
    job = (small_model(), round_cluster(), TrainingSpec(seq_len=128, global_batch=5))
    whole = Plan(mesh=Mesh(pp=4), micro_batch=1, microbatches=5, stages=stages, vocabulary_parallel="vocab-1")
    found, all_held = (
        [part.activations + part.logits for part in plan_costs(*job, one, RoundTimes()).memory()]
        for one in (whole, whole.model_copy(update={"schedule": "gpipe"}))
    )
    assert found == pytest.approx([all_held[0], *[all_held[0]] * 1, found[2], found[3]])
    assert found[1] > found[2] > found[3]


def test_predictions_of_later_tokens_lengthen_the_last_stage_alone() -> None:
    stages = tuple(Stage(layers=(LayerRun(count=2),)) for _ in range(2))
    given = Plan(mesh=Mesh(pp=2), micro_batch=1, microbatches=4, stages=stages)
    training = TrainingSpec(seq_len=128, global_batch=4)
    job = (small_model(), round_cluster())
    plain, found = (
        plan_costs(*job, training.model_copy(update={"mtp_layers": layers}), given, RoundTimes()) for layers in (0, 1)
    )
    longer = found.stage_costs().forward - plain.stage_costs().forward
    layer, projection = plain.stage_costs().forward[0] / 2, 2 * 128 * 2 * 64 * 64 * 1e-12
    assert longer == pytest.approx([0, layer + projection + 2 * 128 * 64 * 1000 * 1e-12])
    assert found.estimate().step_seconds > plain.estimate().step_seconds
    assert [more.total > less.total for more, less in zip(found.memory(), plain.memory(), strict=True)] == [False, True]


def test_the_interlaced_pipeline_stops_for_its_collectives() -> None:
    """Of 128 tokens with 64 elements of 2 bytes: a broadcast and an all-reduce in each pass, and two sums of 128 numbers; a
    second for 1e9 bytes. They count as transfer between the ranks of the pipeline."""
    stages = tuple(Stage(layers=(LayerRun(count=1),)) for _ in range(4))
    training = TrainingSpec(seq_len=128, global_batch=8)
    ends = Plan(mesh=Mesh(pp=4), micro_batch=1, microbatches=8, stages=stages, vocabulary_parallel="vocab-2")
    job = (small_model(), round_cluster(), training)
    beside, stops = (
        plan_costs(*job, ends.model_copy(update={"vocabulary_parallel": kind}), RoundTimes())
        for kind in ("vocab-2", "interlaced")
    )
    hidden, sums = 128 * 64 * 2, 128 * 4
    forward, backward = (2 * hidden + 2 * sums) * 1e-9, 2 * hidden * 1e-9
    assert stops.stage_costs().forward - beside.stage_costs().forward == pytest.approx([forward] * 4)
    assert stops.stage_costs().backward - beside.stage_costs().backward == pytest.approx([backward] * 4)
    step, simulated = stops.estimate().step, simulate_plan(*job[:2], training, stops.plan, RoundTimes())
    assert step.total == pytest.approx(simulated.step_seconds)
    more = step.pipeline_transfer - beside.estimate().step.pipeline_transfer
    assert more == pytest.approx(8 * (forward + backward))
