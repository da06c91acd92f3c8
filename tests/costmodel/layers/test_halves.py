"""A layer with a shortcut around its experts, by hand: 1 second a TFLOP, 1 second a GB."""

from dataclasses import replace

import numpy as np
import pytest

from shardwright.catalog.huggingface import model_from_config
from shardwright.costmodel.layers.all_rows import WorkModel
from shardwright.costmodel.layers.flops import model_flops_per_sequence, recompute_flops_per_sequence
from shardwright.costmodel.layers.row import RowWork
from shardwright.costmodel.op_times.overlap import slowdown_beside
from shardwright.specs.model.attention import MultiHeadAttention
from shardwright.specs.model.feed_forward import FeedForward, MixtureOfExperts
from shardwright.specs.model.model import Block, BlockRun, ModelSpec
from shardwright.specs.plan import EXPERT_DISPATCH, POLICIES
from shardwright.specs.training import Precision, TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster
from tests.parity.cases import layers, plan
from tests.specs.test_candidates import candidates

HIDDEN, SEQ, BATCH = 64, 128, 2
TOKENS, ELEMENT = SEQ * BATCH, 2
DENSE = 3 * HIDDEN * 2 * HIDDEN
ATTENTION = HIDDEN * 128 + HIDDEN * HIDDEN
CORE_FLOPS = 2 * 2 * TOKENS * (SEQ + 1) / 2 * HIDDEN
EXPERTS = MixtureOfExperts(experts=8, top_k=4, expert_width=HIDDEN, shared_width=2 * HIDDEN, zero_experts=8)
BLOCK = Block(
    attention=MultiHeadAttention(heads=4, kv_heads=2, head_size=16),
    ffn=EXPERTS,
    shortcut=FeedForward(width=2 * HIDDEN, gated=True),
)


def model(block: Block = BLOCK) -> ModelSpec:
    return ModelSpec(
        name="double",
        family="longcat_flash",
        hidden_size=HIDDEN,
        vocab_size=1000,
        blocks=(BlockRun(count=2, block=block),),
    )


def training(**given: object) -> TrainingSpec:
    job = {"seq_len": SEQ, "global_batch": 8, "precision": Precision(), "stack": "megatron-core"}
    return TrainingSpec.parse(job | given, source="test")


def row(block: Block = BLOCK, job: TrainingSpec | None = None, **degrees: int) -> RowWork:
    times = RoundTimes(node=round_cluster(nodes=2, devices_per_node=4).node)
    chosen = candidates(micro_batch=BATCH, expert_dispatch=EXPERT_DISPATCH.index("all-to-all"), **degrees)
    return WorkModel(model(block), job or training(), times, chosen).layer(block)


def test_half_of_the_choices_that_compute_nothing_halve_the_experts_of_a_token() -> None:
    assert EXPERTS.computed_top_k == 2
    matmuls = 2 * (ATTENTION + DENSE) + HIDDEN * 16 + 2 * 3 * HIDDEN * HIDDEN
    assert row().forward_seconds[0] == pytest.approx((2 * matmuls * TOKENS + 2 * CORE_FLOPS) * 1e-12)


def test_flops_of_a_step_count_both_halves_once() -> None:
    matmuls = 2 * (2 * (ATTENTION + DENSE) + HIDDEN * 16 + 2 * 3 * HIDDEN * HIDDEN) + HIDDEN * 1000
    cores = 2 * 2 * 2 * 2 * SEQ * SEQ * HIDDEN
    assert model_flops_per_sequence(model(), training()) == pytest.approx(3 * (2 * matmuls * SEQ + cores))


def test_a_full_recompute_repeats_both_halves() -> None:
    again = plan((layers(2, recompute="full"),), global_batch=8)
    matmuls = 2 * (2 * (ATTENTION + DENSE) + HIDDEN * 16 + 2 * 3 * HIDDEN * HIDDEN)
    found = recompute_flops_per_sequence(model(), training(), again)
    assert found == pytest.approx(2 * matmuls * SEQ + 4 * (2 * 2 * SEQ * SEQ * HIDDEN))


# two of a token's four choices compute, and travel there and back
TRADE = 2 * 2 * TOKENS * HIDDEN * ELEMENT * 1e-9
# all of the second half, and the first one's feed-forward
BESIDE = (2 * (ATTENTION + 2 * DENSE) * TOKENS + CORE_FLOPS) * 1e-12


def test_tokens_for_zero_experts_do_not_travel() -> None:
    assert row(ep=4, dp_shard=4).expert_parallel_forward_seconds[0] == pytest.approx(TRADE)


def test_the_exchange_hides_behind_the_dense_branch_of_its_own_layer() -> None:
    job = training(overlaps_dispatch=True)
    found = row(job=job, ep=4, dp_shard=4)
    node, constants = round_cluster(nodes=2, devices_per_node=4).node, RoundTimes().constants
    slowed = float(slowdown_beside(node.device, constants, np.ones(1), job.dispatch_multiprocessors))
    assert TRADE > BESIDE
    exposed = TRADE - BESIDE + slowed * BESIDE
    assert found.expert_parallel_forward_seconds[0] == pytest.approx(exposed)
    # without a second chunk on a rank, another microbatch would hide nothing
    paired = row(BLOCK.halves[0], job, ep=4, dp_shard=4, pp=2, microbatches=8)
    assert paired.expert_parallel_forward_seconds[0] == pytest.approx(TRADE)
    alike = row(job=job, ep=4, dp_shard=4, pp=2, microbatches=8)
    assert alike.expert_parallel_forward_seconds[0] == pytest.approx(exposed)
    backward = dict(zip(POLICIES, found.expert_parallel_backward_seconds_by_policy[0], strict=True))
    assert backward["none"] < exposed, "a backward computes longer"
    assert backward["full"] == pytest.approx(backward["none"] + exposed)


def test_a_full_recompute_keeps_the_stream_once_and_works_in_both_halves() -> None:
    whole, halves = row(), [row(half) for half in BLOCK.halves]
    kept = dict(zip(POLICIES, whole.activation_bytes_by_policy[0], strict=True))
    stream = ELEMENT * TOKENS * HIDDEN
    assert kept["full"] == stream
    assert kept["none"] == sum(half.activation_bytes_by_policy[0, POLICIES.index("none")] for half in halves)
    working = dict(zip(POLICIES, whole.working_bytes_by_policy[0], strict=True))
    least = max(half.working_bytes_by_policy[0, POLICIES.index("none")] for half in halves)
    assert least <= working["none"] <= least + stream
    assert working["full"] >= kept["none"] + working["none"] - stream


def test_modules_to_repeat_are_those_of_both_halves() -> None:
    """ "mlp" names both dense feed-forwards, of which the first lies beside the experts."""
    plain, again = row(), row(job=training(recompute_modules=("mlp",)))
    column = POLICIES.index("selective")
    freed = plain.activation_bytes_by_policy[0, 0] - again.activation_bytes_by_policy[0, column]
    half = BLOCK.halves[1]
    one = (
        row(half).activation_bytes_by_policy[0, 0]
        - row(half, training(recompute_modules=("mlp",))).activation_bytes_by_policy[0, column]
    )
    assert one > 0
    assert freed == 2 * one


def test_transformers_alone_allocates_what_zero_experts_do_not_read() -> None:
    idle = 8 * 2 * HIDDEN * HIDDEN
    own, other = (row(job=training(stack=stack)) for stack in ("shardwright", "megatron-core"))
    assert own.parameters[0] - other.parameters[0] == idle
    spread = [row(job=training(stack=stack), ep=4, dp_shard=4) for stack in ("shardwright", "megatron-core")]
    assert spread[0].expert_parameters[0] - spread[1].expert_parameters[0] == idle / 4


def test_longcat_flash_has_the_active_parameters_of_its_report() -> None:
    """Meituan 2025, arXiv 2509.01322, abstract: 560B, of which 18.6B to 31.3B are active, 27B on average. It leaves the embedding out."""
    config = {"model_type": "longcat_flash", "hidden_size": 6144, "num_layers": 28}
    longcat = model_from_config(config, name="longcat-flash", source="test")
    assert longcat.parameter_count == pytest.approx(560e9, rel=0.002)
    embedding = longcat.vocab_size * longcat.hidden_size
    expert = 28 * 3 * 6144 * 2048
    mean = longcat.active_parameter_count - embedding
    assert mean == pytest.approx(27e9, rel=0.01)
    assert mean - 8 * expert == pytest.approx(18.6e9, rel=0.01)
    assert mean + 4 * expert == pytest.approx(31.3e9, rel=0.01)


def test_a_shortcut_is_around_experts_alone() -> None:
    with pytest.raises(ValueError, match="shortcut is around routed experts"):
        Block(attention=BLOCK.attention, ffn=FeedForward(width=8, gated=True), shortcut=BLOCK.shortcut)


def test_frozen_layers_with_a_shortcut_keep_nothing() -> None:
    frozen = row(BLOCK.model_copy(update={"frozen": True}))
    assert not frozen.activation_bytes_by_policy.any()
    assert not frozen.backward_seconds.any()
    assert replace(frozen).frozen_bytes[0] > 0
