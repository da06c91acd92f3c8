"""What software stacks allocate, worked out by hand: the loss, what layers keep, the optimizer's step."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from shardwright.base.arrays import Array, Number
from shardwright.catalog.cluster_file import load_cluster
from shardwright.costmodel.evaluate import plan_costs
from shardwright.costmodel.layers import operators
from shardwright.costmodel.layers.all_rows import WorkModel
from shardwright.costmodel.layers.row import RowWork
from shardwright.costmodel.op_times.choice import op_times
from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.plan_costs import PlanCosts
from shardwright.costmodel.tables.build import build_tables
from shardwright.costmodel.tables.cost_tables import CostTables
from shardwright.costmodel.tables.memory import receive_buffer_bytes
from shardwright.costmodel.tables.rows import Rows
from shardwright.costmodel.tables.stage_sums import StageSums
from shardwright.specs.mesh import Mesh
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import POLICIES, LayerRun, Offload, Plan, RecomputePolicy, Stage, ZeroStage
from shardwright.specs.results.estimate import MemoryBytes
from shardwright.specs.stack import named_stack
from shardwright.specs.training import Precision, TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster, small_model
from tests.specs.test_candidates import candidates

SEQ, HIDDEN, VOCABULARY = 128, 64, 1000
LAYER_WEIGHTS = 64 * 128 + 64 * 64 + 3 * 64 * 128 + 2 * 64
WEIGHTS = 4 * LAYER_WEIGHTS + VOCABULARY * HIDDEN + VOCABULARY * HIDDEN + HIDDEN


def training(stack: str, *, gradients: str = "fp32", attention: str = "flash") -> TrainingSpec:
    options = {"seq_len": SEQ, "global_batch": 8, "stack": stack, "attention": attention}
    return TrainingSpec.parse({**options, "precision": {"gradients": gradients}}, source="test")


def work(job: TrainingSpec, *, model: ModelSpec | None = None, tp: int = 1, pp: int = 1) -> WorkModel:
    chosen = candidates(tp=tp, pp=pp, micro_batch=1, sequence_parallel=int(tp > 1))
    return WorkModel(model or small_model(), job, RoundTimes(), chosen)


def costs(
    job: TrainingSpec,
    *,
    micro_batch: int = 1,
    shard: int = 1,
    zero: ZeroStage | None = None,
    host: Literal[0, 1] = 0,
    layers: int = 4,
) -> PlanCosts:
    stage: ZeroStage = (1 if shard > 1 else 0) if zero is None else zero
    run = LayerRun(count=layers, recompute="full", zero_stage=stage)
    plan = Plan(
        mesh=Mesh(dp_shard=shard),
        micro_batch=micro_batch,
        microbatches=job.global_batch // (micro_batch * shard),
        stages=(Stage(layers=(run,)),),
        offload=Offload(optimizer_fraction=host),
    )
    return plan_costs(small_model(layers=layers), round_cluster(), job, plan, RoundTimes())


def memory(job: TrainingSpec, *, micro_batch: int = 1) -> MemoryBytes:
    (found,) = costs(job, micro_batch=micro_batch).memory()
    return found


@pytest.mark.parametrize(
    ("stack", "bytes_per_logit"),
    [
        ("shardwright", 2 + 3 * 4),  # bf16 logits beside the log-softmax, its gradient and that of the fp32 logits
        ("torchtitan-eager", 3 * 4),
        ("nanotron", 2 * 4),
        ("megatron-lm", 2 + 2 * 4),
        ("hf-trainer", 3 * 4),
        ("hf-fast-kernels", 2 * 4),
        ("megatron-core", 2 + 4),
        ("torchtitan-compiled-loss", 4),
        ("fsdp", 4),
    ],
)
def test_bytes_alive_for_each_logit_in_the_loss(stack: str, bytes_per_logit: int) -> None:
    head = work(training(stack)).head()
    inputs = SEQ * HIDDEN * (4 + 2 + 2)
    if named_stack(stack).transformers_layers:
        inputs += SEQ * 4  # the final norm's inverse root of each token
    alive = head.activation_bytes_by_policy[0, 0] + head.working_bytes_by_policy[0, 0] - inputs
    words = 128 * -(-VOCABULARY // 128) if named_stack(stack).pads_vocabulary else VOCABULARY
    assert alive == bytes_per_logit * SEQ * words


def layer_of(stack: str, *, tp: int = 1, attention: str = "flash") -> RowWork:
    model = work(training(stack, attention=attention), tp=tp)
    return model.layer(model.model.layer_classes[0])


def kept(row: RowWork, policy: RecomputePolicy) -> float:
    return float(row.activation_bytes_by_policy[0, POLICIES.index(policy)])


def test_an_eager_selection_keeps_the_last_projections_output_too() -> None:
    eager, compiled = layer_of("torchtitan-eager"), layer_of("torchtitan")
    assert kept(eager, "selective") - kept(compiled, "selective") == 2 * HIDDEN * SEQ


def test_selective_recompute_by_matmuls_keeps_input_attention_and_every_second_output() -> None:
    attention = SEQ * (2 * 64 + 4 * 4)  # output, and the log-sum-exp of 4 heads
    outputs = 2 * SEQ * (64 + 32 + 128)  # q, v and gate
    assert kept(layer_of("torchtitan"), "selective") == 2 * SEQ * HIDDEN + attention + outputs


def test_an_equal_width_by_chance_is_not_taken_for_what_tp_reduces() -> None:
    """Of a feed-forward as wide as hidden x tp, one rank's columns are as many as the hidden vector has."""
    alone = work(training("torchtitan"), tp=2)
    both = replace(alone.candidates[np.array([0, 0])], tp=np.array([1, 2]))
    among = replace(alone, candidates=both)
    block = alone.model.layer_classes[0]
    by_itself, together = (w.layer(block).activation_bytes_by_policy[-1] for w in (alone, among))
    assert by_itself.tolist() == together.tolist()


def test_inputs_gathered_again_are_kept_split() -> None:
    block = small_model().layer_classes[0]
    whole, split = (operators.saved_bytes(block, training(name), HIDDEN, 4, 4) for name in ("fsdp", "megatron-core"))
    inputs, fused_gate = 2 * 2 * HIDDEN, 2 * 128 / 4
    assert whole - split == pytest.approx(inputs * (1 - 1 / 4) + fused_gate)


def test_attention_scores_with_dropout_are_five_bytes_each_in_sixteen_bits() -> None:
    """Korthikanti et al. 2022, equation 1: softmax, mask and dropped softmax, 5 a s^2 b."""
    block = small_model().layer_classes[0]
    assert operators.score_bytes(block, training("megatron-lm"), 1) == 5 * 4 * SEQ
    assert operators.score_bytes(block, training("shardwright"), 1) == 6 * 4 * SEQ


def test_a_layer_works_in_its_scores_gradients_once_the_feed_forward_is_free() -> None:
    row = layer_of("shardwright", attention="unfused")
    feed_forward = 3 * 2 * SEQ * 128
    scores = SEQ * (6 * 4 * SEQ - 4 * 2 * 128)
    assert scores > feed_forward
    assert row.working_bytes_by_policy[0, POLICIES.index("none")] == 2 * 2 * SEQ * HIDDEN + scores


def test_a_step_in_flat_buffers_is_the_peak_of_small_batches() -> None:
    """InternEvo: 16 bytes a parameter, then 14 in flat buffers that replace activations and 4 that the allocator cached."""
    found = memory(training("internevo", gradients="bf16"))
    assert found.activations == found.logits == 0
    assert found.optimizer_step == 14 * WEIGHTS
    assert found.allocated == (16 + 14) * WEIGHTS
    moving = found.reserved - found.allocated
    assert moving >= 4 * WEIGHTS
    assert found.total == found.reserved + found.communicators + found.context


def test_temporaries_of_the_step_take_the_place_of_activations() -> None:
    """Foreach AdamW makes 4 bytes a parameter, beside the 4 of gradients: here less than the loss of 32 sequences needs."""
    job = training("torchtitan-eager")
    small, large = (memory(job.model_copy(update={"global_batch": size}), micro_batch=size) for size in (1, 32))
    assert small.optimizer_step == 4 * WEIGHTS
    assert small.gradients == 4 * WEIGHTS
    assert small.activations == small.logits == 0
    assert large.optimizer_step == large.gradients == 0
    assert large.logits > 8 * WEIGHTS
    assert large.allocator_slack == pytest.approx(
        CALIBRATED.allocator_slack * (large.activations + large.logits + large.communication_buffers)
    )


def test_sixteen_bit_gradients_are_widened_for_the_step() -> None:
    """Megatron: fp32 copies of the rank's shard, one for each parameter; fp32 gradients need none."""
    plain, widened = (costs(training("megatron-lm", gradients=name), shard=2).sums for name in ("fp32", "bf16"))
    assert bytes_of(plain, "step").tolist() == [0.0]
    assert bytes_of(widened, "step").tolist() == [4 * WEIGHTS / 2]
    assert bytes_of(widened, "gradients").tolist() == [2 * WEIGHTS]


def test_deepspeed_flattens_the_gradients_whole_and_widens_its_shard() -> None:
    sums = costs(training("megatron-deepspeed", gradients="bf16"), shard=4).sums
    assert bytes_of(sums, "flat").tolist() == [2 * 2 * WEIGHTS + 4 * WEIGHTS / 4]
    assert bytes_of(sums, "step").tolist() == [0.0]


def bytes_of(sums: StageSums, name: str) -> Array:
    """What a kind of static bytes adds up to on each stage."""
    return sums.total(Rows.of(getattr(sums.tables.static, name))[:, None])


def test_states_in_16_bits_make_temporaries_in_16_bits_and_no_copy_to_compute_from() -> None:
    """Ten bytes a parameter on one device: parameter, gradient, two moments and the root of one, in two bytes each. The
    sequence is short, so that the update is the peak."""
    precision = Precision(parameters="bf16", gradients="bf16")
    job = TrainingSpec(seq_len=8, global_batch=1, precision=precision, stack="hf-trainer")
    found = memory(job, micro_batch=1)
    assert found.gathered_parameters == 0
    held = (found.parameters, found.gradients, found.optimizer_state, found.optimizer_step)
    assert held == (2 * WEIGHTS, 2 * WEIGHTS, 4 * WEIGHTS, 2 * WEIGHTS)


@pytest.mark.parametrize(("tp", "copies"), [(1, 3), (2, 4)])
def test_a_vocabulary_that_dtensor_splits_has_a_fourth_copy_in_the_loss(tp: int, copies: int) -> None:
    head = work(training("torchtitan-eager"), tp=tp).head()
    inputs = SEQ * HIDDEN * ((4 + 2) / tp + 2)
    alive = head.activation_bytes_by_policy[0, 0] + head.working_bytes_by_policy[0, 0] - inputs
    assert alive == 4 * copies * SEQ * VOCABULARY / tp


def test_a_loss_in_chunks_holds_the_logits_of_one() -> None:
    """Twelve bytes for each of 1000 logits of a token: in one piece, and in eight. Beside them the head keeps its input."""
    whole, chunked = (
        work(training("torchtitan-eager").model_copy(update={"loss_chunks": chunks}), pp=2).head() for chunks in (1, 8)
    )
    inputs = SEQ * HIDDEN * (4 + 2 + 2)
    alive = [
        head.activation_bytes_by_policy[0, 0] + head.working_bytes_by_policy[0, 0] - inputs for head in (whole, chunked)
    ]
    assert alive == [12 * SEQ * VOCABULARY, 12 * SEQ * VOCABULARY / 8]
    assert chunked.activation_bytes_by_policy[0, 0] - inputs == 2 * SEQ * HIDDEN  # the gradient of the hidden states


def test_a_loss_in_chunks_of_the_own_executor_keeps_the_gradient_of_the_head() -> None:
    """In 16 bits, beside that of its input, which is not kept; the sum in 32 bits and the gradient of one piece come on top."""
    chunked = work(training("shardwright").model_copy(update={"loss_chunks": 8}), pp=2).head()
    whole = work(training("shardwright"), pp=2).head()
    of_weight = HIDDEN * VOCABULARY
    kept, softmax = (head.activation_bytes_by_policy[0, 0] for head in (chunked, whole))
    assert kept == softmax - 4 * SEQ * VOCABULARY + 2 * of_weight
    assert (
        chunked.working_bytes_by_policy[0, 0] == (12 + 2) * SEQ * VOCABULARY / 8 + (4 + 2) * of_weight - 2 * of_weight
    )


def test_the_loss_of_one_stage_is_over_when_its_layers_go_back() -> None:
    """Of 12 bytes for each logit the softmax, 4 in fp32, waits for its backward pass where several microbatches are on their way."""
    alone, last = (work(training("torchtitan-eager"), pp=pp).head() for pp in (1, 2))
    inputs = SEQ * HIDDEN * (4 + 2 + 2)
    assert alone.activation_bytes_by_policy[0, 0] == inputs
    assert alone.working_bytes_by_policy[0, 0] == 12 * SEQ * VOCABULARY
    assert last.activation_bytes_by_policy[0, 0] == inputs + 4 * SEQ * VOCABULARY
    assert last.working_bytes_by_policy[0, 0] == 8 * SEQ * VOCABULARY


def test_what_tensors_occupy_peaks_in_the_update_though_the_allocator_keeps_room_apart() -> None:
    """FSDP1, states of 16 bits, 2 ranks: 8 bytes for each of W / 2 parameters, and with the root of a moment 10. The head stays
    gathered. The passes need less, but the room of the gradients is apart from theirs."""
    precision = Precision(parameters="bf16", gradients="bf16")
    job = TrainingSpec(seq_len=8, global_batch=2, precision=precision, stack="hf-trainer")
    (found,) = costs(job, shard=2, zero=3, layers=8).memory()
    shard = (WEIGHTS + 4 * LAYER_WEIGHTS) / 2
    held = (found.parameters, found.gradients, found.optimizer_state, found.optimizer_step)
    assert held == (2 * shard, 2 * shard, 4 * shard, 2 * shard)
    assert found.allocated == pytest.approx(sum(held) + 2 * (VOCABULARY * HIDDEN + HIDDEN))
    assert found.allocator_slack > 0


def test_gradients_of_a_layer_lie_beside_the_copy_that_is_reduced() -> None:
    """FSDP: 2 bytes a parameter as autograd made them, beside 4 in the buffer; DeepSpeed's lie in the buffer itself."""
    fsdp, deepspeed = (costs(training(name), shard=2, zero=3).sums for name in ("torchtitan", "deepspeed-zero3"))
    largest = VOCABULARY * HIDDEN + HIDDEN
    assert fsdp.rows.reduce_buffer.last.tolist() == [[6 * largest]]
    assert deepspeed.rows.reduce_buffer.last.tolist() == [[4 * largest]]


def test_shards_of_gradients_that_come_at_the_end_have_room_of_their_own() -> None:
    """torchtitan in a pipeline sums whole gradients; the stream of the reduction then makes 4 bytes for each of W / 2."""
    tables = pipelined("torchtitan-0.3", pp=2, microbatches=4, shard=2)
    ends = np.array([[1, 1]])
    flat = Rows.of(tables.static.flat).total(np.array([[4]]), ends)
    assert flat.tolist() == [4 * WEIGHTS / 2]


@pytest.mark.parametrize(
    ("stack", "pp", "merged"), [("torchtitan", 2, 4), ("torchtitan-0.3", 2, 0), ("torchtitan", 1, 0)]
)
def test_a_schedule_that_returns_logits_joins_those_of_all_microbatches(stack: str, pp: int, merged: int) -> None:
    """Four microbatches of 128 tokens and 1000 words in two bytes, in a new block of the last stage."""
    tables = pipelined(stack, pp=pp, microbatches=4)
    assert tables.static.flat[0].tolist() == [0.0, 0.0, merged * SEQ * VOCABULARY * 2.0]


@pytest.mark.parametrize(
    ("stack", "pp", "microbatches", "breaks"),
    [("torchtitan", 2, 4, True), ("torchtitan", 2, 1, False), ("torchtitan", 1, 4, False), ("fsdp", 2, 4, False)],
)
def test_gradients_summed_in_torchs_pipeline_break_up_free_blocks(
    stack: str, pp: int, microbatches: int, breaks: bool
) -> None:
    """A share of what the layer works in when it runs again, and of two copies of its gradients in four bytes."""
    tables = pipelined(stack, pp=pp, microbatches=microbatches, shard=2)
    working = (
        work(training(stack), pp=pp)
        .layer(small_model().layer_classes[0])
        .working_bytes_by_policy[0, POLICIES.index("full")]
    )
    expected = CALIBRATED.fragment_share * (working + 2 * 4 * LAYER_WEIGHTS)
    assert tables.static.fragments[0].tolist() == pytest.approx([expected * breaks, 0.0, 0.0])
    assert bool(tables.slack[0]) is not breaks


def looped(stack: str, microbatches: int, *, shard: int = 2) -> list[MemoryBytes]:
    """Two ranks with two stages each, of one layer."""
    stages = tuple(Stage(layers=(LayerRun(count=1, recompute="full", zero_stage=1),)) for _ in range(4))
    plan = Plan(
        mesh=Mesh(pp=2, dp_shard=shard),
        micro_batch=1,
        microbatches=microbatches,
        schedule="interleaved-1f1b",
        stages=stages,
    )
    job = training(stack).model_copy(update={"global_batch": shard * microbatches})
    cluster = round_cluster(nodes=1, devices_per_node=2 * shard)
    return plan_costs(small_model(), cluster, job, plan, RoundTimes()).memory()


@pytest.mark.parametrize(
    ("stack", "microbatches", "sums"),
    [("torchtitan", 2, 1), ("torchtitan-0.3", 2, 2), ("torchtitan", 8, 2), ("torchtitan-0.3", 8, 2)],
)
def test_a_stage_of_torchs_pipeline_has_summed_gradients_from_its_first_backward_to_its_last(
    stack: str, microbatches: int, sums: int
) -> None:
    """With as many microbatches as ranks a stage has finished before the other begins; torch 2.10 reduces at the end of the step."""
    middle = 4 * LAYER_WEIGHTS
    first, _ = looped(stack, microbatches)
    embedding = 4 * VOCABULARY * HIDDEN
    assert first.gradients in [sums * middle + embedding * begun for begun in (0, 1)]


def pipelined(stack: str, *, pp: int, microbatches: int, shard: int = 1) -> CostTables:
    chosen = candidates(pp=pp, dp_shard=shard, microbatches=microbatches, micro_batch=1, sequence_parallel=0)
    return build_tables(small_model(), training(stack), chosen, RoundTimes())


@pytest.mark.parametrize(
    ("pp", "stages_per_rank", "microbatches", "messages"),
    [(1, 1, 8, 0), (2, 1, 8, 8), (4, 1, 8, 12), (4, 2, 8, 24), (4, 1, 4, 4)],
)
def test_torchs_stages_hold_a_buffer_for_each_message(
    pp: int, stages_per_rank: int, microbatches: int, messages: int
) -> None:
    """A message is 128 tokens of 64 elements in two bytes. Megatron and this project's executor make a buffer when it is due."""
    chosen = candidates(
        pp=pp, stages_per_rank=stages_per_rank, microbatches=microbatches, micro_batch=1, sequence_parallel=0
    )
    torchs, megatron, own = (
        receive_buffer_bytes(small_model(), training(name), chosen)
        for name in ("torchtitan-eager", "megatron-core", "shardwright")
    )
    assert torchs.tolist() == [messages * SEQ * HIDDEN * 2]
    assert megatron.tolist() == own.tolist() == [0]


@pytest.mark.parametrize(
    ("stages_per_rank", "microbatches", "messages"), [(1, 8, 12 + 8), (2, 8, 24 + 3 * 8), (1, 4, 4 + 4)]
)
def test_torchs_stages_of_2024_keep_what_they_sent(stages_per_rank: int, microbatches: int, messages: int) -> None:
    """Four ranks. Of 2 v M hidden states and gradients that a rank's stages sent, the first and the last of all miss M."""
    chosen = candidates(
        pp=4, stages_per_rank=stages_per_rank, microbatches=microbatches, micro_batch=1, sequence_parallel=0
    )
    found = receive_buffer_bytes(small_model(), training("torchtitan"), chosen)
    assert found.tolist() == [messages * SEQ * HIDDEN * 2]


@pytest.mark.parametrize(
    ("stack", "pp", "others"),
    [
        ("torchtitan", 2, 3),
        ("torchtitan-compiled-loss", 2, 3),
        ("torchtitan-0.3", 2, 0),
        ("dualpipe", 2, 0),
        ("torchtitan", 1, 0),
    ],
)
def test_a_last_stage_keeps_the_logits_that_its_schedule_returns(stack: str, pp: int, others: int) -> None:
    """Of four microbatches three are not in the loss: 128 tokens of 1000 words in two bytes, on the row of the head alone."""
    tables = pipelined(stack, pp=pp, microbatches=4)
    assert tables.static.outputs[0].tolist() == [0.0, 0.0, others * SEQ * VOCABULARY * 2.0]
    assert (tables.static.stays - tables.static.outputs)[0, -1] > 0


@pytest.mark.parametrize(("zero", "host"), [(2, 0), (3, 0), (1, 1)])
def test_flat_copies_of_whole_gradients_need_whole_gradients_and_an_update_on_the_device(
    zero: ZeroStage, host: Literal[0, 1]
) -> None:
    """DeepSpeed of 2021 under ZeRO 2 or 3 has no whole gradients; an update on the host flattens them there."""
    job = training("megatron-deepspeed", gradients="bf16")
    flat = costs(job, shard=4, zero=zero, host=host).sums
    widened = 0.0 if host else 4 * WEIGHTS / 4
    assert bytes_of(flat, "flat").tolist() == [widened]


class _Moving(RoundTimes):
    """A second for each megabyte of memory traffic."""

    def memory_bound_seconds(self, moved_bytes: Number) -> Array:
        return np.asarray(moved_bytes, dtype=float) * 1e-6


def test_a_loss_in_chunks_sums_the_gradients_of_the_head() -> None:
    """Eight pieces: seven times the 2-byte gradient of 1000 x 64 weights is read, with the sum so far, and written."""
    whole, chunked = (
        WorkModel(
            small_model(),
            training("torchtitan-eager").model_copy(update={"loss_chunks": chunks}),
            _Moving(),
            candidates(tp=1, micro_batch=1, sequence_parallel=0),
        ).head()
        for chunks in (1, 8)
    )
    summed = 7 * 3 * 2 * VOCABULARY * HIDDEN * 1e-6
    for name in ("backward_seconds", "weight_gradient_seconds"):
        assert getattr(chunked, name)[0] == pytest.approx(getattr(whole, name)[0] + summed)
    assert chunked.forward_seconds[0] == pytest.approx(whole.forward_seconds[0])


def test_small_pieces_of_a_loss_are_slower_matmuls() -> None:
    """On an A100 the matmul of the head in 64 pieces of 64 tokens takes longer than in one."""
    cluster = load_cluster("a100-sxm-80gb:1")
    seconds = []
    for chunks in (1, 64):
        job = TrainingSpec(seq_len=4096, global_batch=1, stack="torchtitan-0.3", loss_chunks=chunks)
        head = WorkModel(
            small_model(), job, op_times(cluster, job), candidates(tp=1, micro_batch=1, sequence_parallel=0)
        ).head()
        seconds.append(float(head.forward_seconds[0]))
    assert seconds[1] > 1.2 * seconds[0]
