"""What a property of a stack changes of its compute."""

import numpy as np
import pytest

from shardwright.base.arrays import Array, Number
from shardwright.base.errors import SpecError
from shardwright.costmodel.layers.all_rows import WorkModel
from shardwright.costmodel.layers.operators import saved_bytes
from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.tables.distinct_rows import distinct_rows
from shardwright.specs.candidates import Candidates
from shardwright.specs.model.norm import Norm
from shardwright.specs.plan import POLICIES
from shardwright.specs.stack import Stack
from tests.costmodel.fakes import small_experts
from tests.costmodel.stack.changed import (
    BLOCK,
    HIDDEN,
    MODEL,
    SEQ,
    VOCABULARY,
    WIDTH,
    MemoryTimes,
    Trained,
    layer,
    work,
)
from tests.specs.test_candidates import candidates


def test_a_misspelt_property_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match="fused_norms"):
        Stack.parse({"name": "mine", "about": "a test", "fused_norm": True}, source="stacks.toml [mine]")


def test_a_layer_norm_is_fused_everywhere(trained: Trained) -> None:
    block = BLOCK.model_copy(update={"norm": Norm(kind="layernorm", bias=True)})
    eager, fused = (saved_bytes(block, trained(fused_norms=fused), HIDDEN, 1, 1) for fused in (0, 1))
    assert eager == fused


def test_a_fused_loss_moves_eight_bytes_a_logit(trained: Trained) -> None:
    eager, fused = (work(trained(fused_loss=fused)).head() for fused in (0, 1))
    saved = eager.forward_seconds + eager.backward_seconds - fused.forward_seconds - fused.backward_seconds
    assert saved == pytest.approx((CALIBRATED.loss_bytes_per_logit - 8) * SEQ * VOCABULARY * 1e-9)


def test_a_small_layer_takes_as_long_as_its_launches(trained: Trained) -> None:
    found = layer(trained(kernels_forward=20, kernels_backward=50))
    assert [found.forward_seconds.item(), found.backward_seconds.item()] == [0.020, 0.050]
    in_pieces = layer(trained(kernels_forward=20, kernels_backward=50).model_copy(update={"sequence_chunks": 3}))
    assert [in_pieces.forward_seconds.item(), in_pieces.backward_seconds.item()] == [0.060, 0.150]


@pytest.mark.parametrize(("ep", "held"), [(1, 8), (4, 2)])
def test_a_layer_of_experts_also_launches_its_router_and_each_expert_that_the_rank_holds(
    trained: Trained, ep: int, held: int
) -> None:
    """A millisecond for each launch: 20 + 5 of the router and 3 for each expert forward, 50 + 7 and 6 backward."""
    launches = {
        "kernels_forward": 20,
        "kernels_backward": 50,
        "router_kernels_forward": 5,
        "router_kernels_backward": 7,
    }
    stack = trained(**launches, expert_kernels_forward=3, expert_kernels_backward=6)
    model = small_experts()
    rows = WorkModel(model, stack, MemoryTimes(), candidates(dp_shard=4, ep=ep))
    found = rows.layer(model.layer_classes[0])
    assert found.forward_seconds.item() == pytest.approx((20 + 5 + 3 * held) / 1e3)
    assert found.backward_seconds.item() == pytest.approx((50 + 7 + 6 * held) / 1e3)


@pytest.mark.parametrize(
    ("zero", "forward", "backward"), [(1, 20, 50), (2, 20, 50 + 14 * 5), (3, 20 + 14 * 2, 50 + 14 * 4)]
)
def test_hooks_of_linears_take_the_host_as_long_as_launches(
    trained: Trained, zero: int, forward: int, backward: int
) -> None:
    """A millisecond for each launch. The layer has 4 linears of attention, 3 of the shared expert, the router, and 2 of 8 experts with 3."""
    hooks = {
        "gathered_module_kernels_forward": 2,
        "gathered_module_kernels_backward": 4,
        "reduced_module_kernels_backward": 5,
    }
    launches = {
        "kernels_forward": 20,
        "kernels_backward": 50,
        "router_kernels_forward": 0,
        "router_kernels_backward": 0,
    }
    model = small_experts()
    rows = WorkModel(model, trained(**launches, **hooks), MemoryTimes(), candidates(dp_shard=4, ep=4, zero_stage=zero))
    found = rows.layer(model.layer_classes[0])
    assert found.forward_seconds.item() == pytest.approx(forward / 1e3)
    assert found.backward_seconds.item() == pytest.approx(backward / 1e3)


def test_the_zero_stage_counts_where_hooks_do(trained: Trained) -> None:
    """Candidates that differ in the ZeRO stage alone share their work, unless hooks take the host's time."""
    first, other = (vars(candidates(dp_shard=8, zero_stage=zero)) for zero in (1, 3))
    chosen = Candidates(**{name: np.concatenate([first[name], other[name]]) for name in first})
    for hooks, kinds in ((0, 1), (2, 2)):
        rows = distinct_rows(MODEL, trained(gathered_module_kernels_forward=hooks), chosen, MemoryTimes())
        assert len(set(rows.of_candidate)) == kinds


def test_recompute_that_stops_early_leaves_out_the_last_matmul(trained: Trained) -> None:
    early, late = (
        layer(trained(stops_recompute_early=early, kernels_forward=1e-9)).recompute_seconds_by_policy
        for early in (1, 0)
    )
    full = POLICIES.index("full")
    assert (late - early)[0, full] == pytest.approx(2e-12 * SEQ * WIDTH * HIDDEN)
    assert (late - early)[0, :full].tolist() == [0, 0]


def test_unfused_scores_are_cast_where_the_familys_code_does(trained: Trained) -> None:
    """Of transformers' code in 16 bits: 14 passes each way and 6 and 5 without casts."""
    training = trained(kernels_forward=1e-9, kernels_backward=1e-9).model_copy(update={"attention": "unfused"})
    llama, falcon = (
        WorkModel(MODEL.model_copy(update={"family": family}), training, MemoryTimes(), candidates()).layer(BLOCK)
        for family in ("llama", "falcon")
    )
    scores = 2 * 4 * SEQ * SEQ * 1e-9
    assert llama.forward_seconds - falcon.forward_seconds == pytest.approx((14 - 6) * scores)
    assert llama.backward_seconds - falcon.backward_seconds == pytest.approx((14 - 5) * scores)


def test_separate_projections_are_matmuls_of_their_own(trained: Trained) -> None:
    """q, k, v, output, gate, up and down, against qkv, output, gate with up, and down, of as many FLOPs."""
    seen: list[list[tuple[float, float]]] = []

    class Listed(MemoryTimes):
        def matmul_seconds(self, m: Number, k: Number, n: Number, **how: object) -> Array:
            seen[-1].append((float(np.asarray(k).item()), float(np.asarray(n).item())))
            return np.zeros(1)

    for joined in (False, True):
        seen.append([])
        frame = WorkModel(MODEL, trained(joined_projections=joined), Listed(), candidates())
        assert frame.layer(BLOCK).forward_seconds.shape == (1,)
    separate, one = ({*sizes} for sizes in seen)
    assert {(64, 64), (64, 32), (64, 128), (128, 64)} <= separate
    assert {(64, 128), (64, 64), (64, 256), (128, 64)} <= one
    assert (64, 32) not in one
    assert (64, 256) not in separate


def test_the_final_norm_moves_what_a_norm_moves(trained: Trained) -> None:
    eager, fused = (work(trained(fused_norms=fused)).head() for fused in (False, True))
    each = 2 * SEQ * HIDDEN * 1e-9
    assert eager.forward_seconds - fused.forward_seconds == pytest.approx((18 - 2) * each)
    assert eager.backward_seconds - fused.backward_seconds == pytest.approx((46 - 5) * each)


def test_a_matmul_that_adds_gradients_up_takes_as_long_as_its_traffic(trained: Trained) -> None:
    """It reads both operands in 2 bytes, and reads and writes the sum in 4. Without it the matmul's FLOPs count alone here."""
    shapes = [(HIDDEN, HIDDEN), (HIDDEN, HIDDEN // 2), (HIDDEN, HIDDEN // 2), (HIDDEN, HIDDEN)]
    shapes += [(HIDDEN, WIDTH), (HIDDEN, WIDTH), (WIDTH, HIDDEN)]
    apart, adding = (layer(trained(sums_gradients_in_matmuls=adds)).weight_gradient_seconds for adds in (False, True))
    assert apart == pytest.approx(sum(2 * SEQ * k * n for k, n in shapes) * 1e-12)
    assert adding == pytest.approx(sum(2 * SEQ * (k + n) + (4 + 4) * k * n for k, n in shapes) * 1e-9)


def test_an_embedding_by_matmul_costs_as_much_as_the_head_each_way_and_keeps_its_one_hot_rows(trained: Trained) -> None:
    """The head has two gradients in the backward pass, the embedding one."""
    gathered, matmul = (work(trained(embeds_by_matmul=given)).embedding() for given in (False, True))
    head, one_hot = 2 * HIDDEN * VOCABULARY * SEQ * 1e-12, 2 * SEQ * VOCABULARY
    assert matmul.forward_seconds[0] == pytest.approx(head + one_hot * 1e-9)
    assert matmul.backward_seconds[0] == pytest.approx(head)
    assert matmul.activation_bytes_by_policy[0, 0] == gathered.activation_bytes_by_policy[0, 0] + one_hot


def test_what_is_no_weight_matmul_is_repeated_with_the_attention_core(trained: Trained) -> None:
    kept, repeated = (
        layer(trained(selective=given)).recompute_seconds_by_policy[0][POLICIES.index("selective")]
        for given in ("elementwise", "all-but-weight-matmuls")
    )
    core = 2 * 2 * SEQ * (SEQ + 1) / 2 * HIDDEN * 1e-12  # a query sees half of the keys
    assert repeated - kept == pytest.approx(core)
