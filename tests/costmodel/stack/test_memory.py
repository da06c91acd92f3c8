"""What a property of a stack changes of its memory."""

from dataclasses import replace

import numpy as np
import pytest

from shardwright.costmodel.layers.operators import saved_bytes
from shardwright.specs.plan import POLICIES
from shardwright.specs.training import Precision
from tests.costmodel.fakes import RoundTimes, small_experts
from tests.costmodel.stack.changed import HIDDEN, SEQ, WIDTH, Trained, layer, tables, work


def test_a_fused_norm_moves_and_keeps_less(trained: Trained) -> None:
    """18 passes become 2 forward, 46 become 5 backward; of two norms the fp32 input is kept no more."""
    eager, fused = (layer(trained(fused_norms=fused, kernels_forward=1e-9, kernels_backward=1e-9)) for fused in (0, 1))
    each = 2 * 2 * SEQ * HIDDEN * 1e-9
    assert eager.forward_seconds - fused.forward_seconds == pytest.approx((18 - 2) * each)
    assert eager.backward_seconds - fused.backward_seconds == pytest.approx((46 - 5) * each)
    kept = eager.activation_bytes_by_policy - fused.activation_bytes_by_policy
    assert kept[0, POLICIES.index("none")] == 2 * 4 * SEQ * HIDDEN


def test_fused_elementwise_work_moves_less_and_keeps_no_gate(trained: Trained) -> None:
    """Rotary 10 to 2 and 14 to 2, SwiGLU 5 to 3 and 9 to 5; the activated gate is computed again from the gate. Backward
    the rotated heads are not copied (2), and three gradients are added in the norm's kernel (1 for 3 each)."""
    eager, fused = (
        layer(trained(fused_elementwise=fused, kernels_forward=1e-9, kernels_backward=1e-9)) for fused in (0, 1)
    )
    queries_keys, element = HIDDEN + HIDDEN // 2, 2 * SEQ * 1e-9
    assert eager.forward_seconds - fused.forward_seconds == pytest.approx(element * (8 * queries_keys + 2 * WIDTH))
    assert eager.backward_seconds - fused.backward_seconds == pytest.approx(
        element * ((12 + 2) * queries_keys + 4 * WIDTH + 3 * 2 * HIDDEN)
    )
    kept = eager.activation_bytes_by_policy - fused.activation_bytes_by_policy
    assert kept[0, POLICIES.index("none")] == 2 * SEQ * WIDTH


def test_fused_operands_are_kept_in_a_byte(trained: Trained) -> None:
    lower = Precision(linear="fp8")
    eager, fused = (
        layer(trained(fused_operands=fused, precision=lower, kernels_forward=1e-9)) for fused in (False, True)
    )
    kept = eager.activation_bytes_by_policy - fused.activation_bytes_by_policy
    assert kept[0, POLICIES.index("none")] == SEQ * (
        2 * HIDDEN + WIDTH
    )  # the inputs of qkv, of gate and up, and of down


def test_weights_inside_the_experts_save_their_outputs(trained: Trained) -> None:
    """Two experts for each token, whose outputs are 64 columns of two bytes."""
    block = small_experts(hidden=HIDDEN).layer_classes[0]
    kept, folded = (saved_bytes(block, trained(keeps_expert_outputs=keeps), HIDDEN, 1, 1) for keeps in (True, False))
    assert kept - folded == 2 * HIDDEN * 2


def test_tokens_weighed_in_fp32_are_kept_so(trained: Trained) -> None:
    """Two experts for each token: 64 columns of four bytes instead of the outputs in two; a router with as many copies."""
    block = small_experts(hidden=HIDDEN).layer_classes[0]
    fused, weighed = (saved_bytes(block, trained(weighs_tokens_in_fp32=so), HIDDEN, 1, 1) for so in (False, True))
    assert weighed - fused == 2 * HIDDEN * (4 - 2)


def test_gradients_of_routed_tokens_are_in_use_beside_a_layer(trained: Trained) -> None:
    """Two copies of each of 128 tokens, 64 columns: the gradient of their inputs in two bytes beside those of three columns
    of each expert; or three times in fp32, before these."""
    block = small_experts(hidden=HIDDEN).layer_classes[0]
    routed, columns = 128 * 2 * HIDDEN, 128 * block.ffn.active_width
    hidden = 2 * 2 * 128 * HIDDEN
    fused, weighed = (
        work(trained(weighs_tokens_in_fp32=so)).layer(block).working_bytes_by_policy[0, 0] for so in (False, True)
    )
    assert fused == hidden + 3 * 2 * columns + 2 * routed
    assert weighed == hidden + max(3 * 2 * columns + 2 * routed, 3 * 4 * routed)


@pytest.mark.parametrize(("microbatches", "whole"), [(1, False), (2, True)])
def test_deferred_reductions_keep_whole_gradients_from_microbatch_to_microbatch(
    trained: Trained, microbatches: int, whole: bool
) -> None:
    shards, deferred = (
        tables(trained(defers_reduction=defers), zero_stage=3, dp_shard=8, pp=2, microbatches=microbatches).static
        for defers in (False, True)
    )
    np.testing.assert_allclose(deferred.gradients, 8 * shards.gradients)
    assert bool(deferred.gradients.any()) is whole


@pytest.mark.parametrize(("microbatches", "zero", "more"), [(1, 1, True), (2, 1, False), (1, 3, False)])
def test_a_gradient_buffer_is_whole_from_the_first_microbatch_on(
    trained: Trained, microbatches: int, zero: int, more: bool
) -> None:
    without, buffer = (
        tables(trained(keeps_gradient_buffer=keeps), zero_stage=zero, dp_shard=8, microbatches=microbatches).static
        for keeps in (False, True)
    )
    np.testing.assert_allclose(
        buffer.gradients, (without.gradients + without.late_gradients + without.stream_gradients) * (8 if more else 1)
    )
    assert not buffer.late_gradients.any()


def test_dropout_keeps_a_byte_after_each_sublayer(trained: Trained) -> None:
    plain, dropping = (layer(trained(dropout=dropout)).activation_bytes_by_policy[0, 0] for dropout in (0, 1))
    assert dropping - plain == 2 * SEQ * HIDDEN
    split = [
        layer(trained(dropout=dropout), tp=4, sequence_parallel=1).activation_bytes_by_policy[0, 0]
        for dropout in (0, 1)
    ]
    assert split[1] - split[0] == 2 * SEQ * HIDDEN / 4


@pytest.mark.parametrize(("tp", "padded", "plain"), [(1, 1024, 1000), (4, 256, 250), (8, 128, 125)])
def test_a_padded_vocabulary_gives_each_rank_a_multiple_of_128(
    trained: Trained, tp: int, padded: int, plain: int
) -> None:
    """The matmul alone: what the loss moves takes no time here."""
    words = []
    for pads in (True, False):
        head = replace(work(trained(pads_vocabulary=pads), tp=tp), times=RoundTimes()).head()
        words.append(head.forward_seconds.item() / (2e-12 * SEQ * HIDDEN))
    assert words == pytest.approx([padded, plain])


def test_a_weight_gradient_may_stay_in_the_compute_format(trained: Trained) -> None:
    """Round times halve a matmul in low precision."""
    low, plain, mixed = (
        layer(trained(precision=Precision(linear=linear))).weight_gradient_seconds
        for linear in ("fp8-rowwise", None, "fp8-rowwise-gw-hp")
    )
    assert mixed == plain == pytest.approx(2 * low)
