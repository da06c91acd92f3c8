"""What software stacks allocate, worked out by hand: the loss, what layers keep, the optimizer's step."""

from dataclasses import replace

import numpy as np
import pytest

from shardwright.base.arrays import Array
from shardwright.costmodel.evaluate import PlanCosts, plan_costs
from shardwright.costmodel.layers import operators
from shardwright.costmodel.layers.all_rows import WorkModel
from shardwright.costmodel.layers.row import RowWork
from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.tables.rows import Rows
from shardwright.costmodel.tables.stage_sums import StageSums
from shardwright.specs.estimate import MemoryBytes
from shardwright.specs.mesh import Mesh
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import POLICIES, LayerRun, Plan, RecomputePolicy, Stage
from shardwright.specs.stack import named_stack
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster, small_model
from tests.specs.test_candidates import candidates

SEQ, HIDDEN, VOCABULARY = 128, 64, 1000
LAYER_WEIGHTS = 64 * 128 + 64 * 64 + 3 * 64 * 128 + 2 * 64
WEIGHTS = 4 * LAYER_WEIGHTS + VOCABULARY * HIDDEN + VOCABULARY * HIDDEN + HIDDEN


def training(stack: str, *, gradients: str = "fp32", attention: str = "flash") -> TrainingSpec:
    options = {"seq_len": SEQ, "global_batch": 8, "stack": stack, "attention": attention}
    return TrainingSpec.parse({**options, "precision": {"gradients": gradients}}, source="test")


def work(job: TrainingSpec, *, model: ModelSpec | None = None, tp: int = 1) -> WorkModel:
    chosen = candidates(tp=tp, micro_batch=1, sequence_parallel=int(tp > 1))
    return WorkModel(model or small_model(), job, RoundTimes(), chosen)


def costs(job: TrainingSpec, *, micro_batch: int = 1, shard: int = 1) -> PlanCosts:
    run = LayerRun(count=4, recompute="full", zero_stage=1 if shard > 1 else 0)
    plan = Plan(
        mesh=Mesh(dp_shard=shard),
        micro_batch=micro_batch,
        microbatches=8 // (micro_batch * shard),
        stages=(Stage(layers=(run,)),),
    )
    return plan_costs(small_model(), round_cluster(), job, plan, RoundTimes())


def memory(job: TrainingSpec, *, micro_batch: int = 1) -> MemoryBytes:
    (found,) = costs(job, micro_batch=micro_batch).memory()
    return found


@pytest.mark.parametrize(
    ("stack", "bytes_per_logit"),
    [
        ("shardwright", 2 + 3 * 4),  # bf16 logits beside the log-softmax, its gradient and that of the fp32 logits
        ("torchtitan-eager", 3 * 4),
        ("nanotron", 3 * 4),
        ("megatron-lm", 2 + 2 * 4),
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
    """torchtitan: foreach AdamW makes 8 bytes a parameter, here less than the loss needs, so they do not show."""
    small, large = (memory(training("torchtitan-eager"), micro_batch=size) for size in (1, 8))
    assert small.optimizer_step == 8 * WEIGHTS
    assert small.activations == small.logits == 0
    assert large.optimizer_step == 0
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
