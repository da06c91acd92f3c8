"""Work of one layer and of the ends, worked out by hand with round operation times."""

from dataclasses import replace

import numpy as np
import pytest

from shardwright.base import Array, Number
from shardwright.costmodel.layers.all_rows import WorkModel
from shardwright.costmodel.layers.row import RowWork
from shardwright.costmodel.layers.traffic import backward_traffic, forward_traffic
from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.op_times.overlap import slowdown_beside
from shardwright.specs.model.model import Block
from shardwright.specs.plan import CONTEXT_PARALLEL, EXPERT_DISPATCH, POLICIES
from shardwright.specs.stack import named_stack
from shardwright.specs.training import Precision, TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster, small_experts, small_model
from tests.costmodel.layers.test_traffic import totals
from tests.specs.test_candidates import candidates

HIDDEN, SEQ, BATCH = 64, 128, 2
TOKENS = SEQ * BATCH
# q 64 x 64, k and v 64 x 32 each, output 64 x 64; gate, up and down 64 x 128 each
LAYER_WEIGHTS = 64 * 128 + 64 * 64 + 3 * 64 * 128


def work(
    *, tp: int = 1, attention: str = "flash", tied: bool = False, stack: str = "shardwright", **degrees: int
) -> WorkModel:
    given = {"seq_len": SEQ, "global_batch": 8, "attention": attention, "precision": Precision(), "stack": stack}
    training = TrainingSpec.parse(given, source="test")
    chosen = candidates(tp=tp, micro_batch=BATCH, **degrees)
    return WorkModel(small_model(hidden=HIDDEN, tied=tied), training, RoundTimes(), chosen)


def test_forward_and_backward_are_two_and_four_flops_per_weight_and_token() -> None:
    model = work()
    layer = model.layer(model.model.layer_classes[0])
    matmuls = 2 * LAYER_WEIGHTS * TOKENS * 1e-12
    # causal: a query sees (SEQ + 1) / 2 keys on average; scores and values are 2 flops each per key and element
    core = 2 * 2 * TOKENS * (SEQ + 1) / 2 * 64 * 1e-12
    assert layer.forward_seconds[0] == pytest.approx(matmuls + core)
    assert layer.backward_seconds[0] == pytest.approx(2 * matmuls + 2.5 * core)


def test_the_weights_gradients_are_as_much_work_as_the_forward_matmuls_and_none_of_the_attention_core() -> None:
    model = work()
    layer, embedding, head = model.layer(model.model.layer_classes[0]), model.embedding(), model.head()
    assert layer.weight_gradient_seconds[0] == pytest.approx(2 * LAYER_WEIGHTS * TOKENS * 1e-12)
    assert head.weight_gradient_seconds[0] == pytest.approx(2 * HIDDEN * 1000 * TOKENS * 1e-12)
    assert embedding.weight_gradient_seconds[0] == embedding.backward_seconds[0]


OWN = named_stack("shardwright")


def test_unfused_attention_computes_every_key() -> None:
    fused, unfused = work(), work(attention="unfused")
    block = fused.model.layer_classes[0]
    extra = unfused.layer(block).forward_seconds - fused.layer(block).forward_seconds
    assert extra[0] == pytest.approx(2 * 2 * TOKENS * (SEQ - (SEQ + 1) / 2) * 64 * 1e-12)


def test_recompute_repeats_the_attention_core_or_the_whole_forward_with_its_communication() -> None:
    model = work(tp=4, sequence_parallel=1, attention="unfused")
    layer = model.layer(model.model.layer_classes[0])
    by_policy = dict(zip(POLICIES, layer.recompute_seconds_by_policy[0], strict=True))
    core = 2 * 2 * TOKENS * SEQ * 64 / 4 * 1e-12
    down = 2 * TOKENS * 2 * HIDDEN * HIDDEN / 4 * 1e-12  # nothing in the backward pass reads the layer's last output
    assert by_policy == pytest.approx({"none": 0.0, "selective": core, "full": layer.forward_seconds[0] - down})
    forward = layer.tensor_parallel_forward_seconds[0]
    # two gathers and two reductions, of which the last one is not repeated: no gradient reads its result
    expected = [forward, forward, (1 + 3 / 4) * forward]
    assert layer.tensor_parallel_backward_seconds_by_policy[0].tolist() == pytest.approx(expected)


def test_stacks_whose_exchanges_are_not_counted_repeat_all_of_them() -> None:
    model = work(tp=4, sequence_parallel=1, stack="dualpipe")
    layer = model.layer(model.model.layer_classes[0])
    none, _, full = layer.tensor_parallel_backward_seconds_by_policy[0]
    assert full == pytest.approx(2 * none)


def test_a_fused_kernel_leaves_selective_recompute_nothing_to_do() -> None:
    model = work()
    layer = model.layer(model.model.layer_classes[0])
    assert layer.recompute_seconds_by_policy[0, 1] == 0
    assert layer.activation_bytes_by_policy[0, 1] == layer.activation_bytes_by_policy[0, 0]


def test_a_ladder_hides_exchanges_over_tp_behind_the_layer() -> None:
    """No more than all of them, and none where the device computes nothing beside traffic; with tp 4 the layer takes less than they do."""
    found = {}
    for kind in ("gpu", "cpu"):
        for ladder in (False, True):
            plain = work(tp=4, sequence_parallel=1)
            block = plain.model.layer_classes[0].model_copy(update={"ladder": ladder})
            times = RoundTimes(node=round_cluster(kind=kind).node)
            found[kind, ladder] = replace(plain, times=times).layer(block)
    whole, rest = found["gpu", False], found["gpu", True]
    node, constants = round_cluster().node, RoundTimes().constants
    slowed = float(slowdown_beside(node.device, constants, np.ones(1)))
    exchanges, compute = whole.tensor_parallel_forward_seconds[0], whole.forward_seconds[0]
    assert exchanges > compute
    assert rest.tensor_parallel_forward_seconds[0] == pytest.approx(exchanges - (1 - slowed) * compute)
    assert max(exchanges, compute) <= compute + rest.tensor_parallel_forward_seconds[0] <= exchanges + compute
    none = POLICIES.index("none")
    backward, whole_backward = (each.tensor_parallel_backward_seconds_by_policy[0, none] for each in (rest, whole))
    assert 0 < backward < rest.tensor_parallel_forward_seconds[0] < whole_backward
    assert found["cpu", True].tensor_parallel_forward_seconds[0] == exchanges


def test_tensor_parallel_moves_the_hidden_states_twice_in_each_sublayer() -> None:
    sequence_parallel = work(tp=4, sequence_parallel=1)
    block = sequence_parallel.model.layer_classes[0]
    hidden_bytes = 2 * TOKENS * HIDDEN
    assert sequence_parallel.layer(block).tensor_parallel_forward_seconds[0] == pytest.approx(4 * hidden_bytes * 1e-9)
    assert work(tp=1).layer(block).tensor_parallel_forward_seconds[0] == 0


def test_tp_divides_what_it_splits_and_no_more() -> None:
    whole, split = work(tp=1), work(tp=4)
    block = whole.model.layer_classes[0]
    norms = 2 * HIDDEN
    assert whole.layer(block).parameters[0] == LAYER_WEIGHTS + norms
    assert split.layer(block).parameters[0] == LAYER_WEIGHTS / 4 + norms
    assert split.layer(block).forward_seconds[0] == pytest.approx(whole.layer(block).forward_seconds[0] / 4)


def test_full_recompute_keeps_the_layer_input_alone() -> None:
    model = work()
    kept = dict(zip(POLICIES, model.layer(model.model.layer_classes[0]).activation_bytes_by_policy[0], strict=True))
    assert kept["full"] == 2 * TOKENS * HIDDEN
    # bf16, per token: two norms (fp32 input 4 + output 2, an fp32 inverse root) and two matmul inputs of 64; q 64, k 32,
    # v 32, output 64 and 4 fp32 log-sums; gate, up, activated and product of 128
    assert kept["none"] == TOKENS * (2 * (6 * 64 + 4) + 2 * 2 * 64 + 2 * (64 + 32 + 32 + 64) + 4 * 4 + 2 * 4 * 128)


def test_scores_are_what_selective_recompute_saves() -> None:
    model = work(attention="unfused")
    none, selective, _ = model.layer(model.model.layer_classes[0]).activation_bytes_by_policy[0]
    repeated = 2 * (64 - 32) * 2  # keys and values for four query heads instead of two, in bf16
    assert none - selective == TOKENS * (SEQ * 4 * (4 + 2) + repeated)  # heads x (fp32 softmax + bf16 cast)


@pytest.mark.parametrize(("pp", "tied", "holds"), [(1, True, False), (2, True, True), (1, False, True)])
def test_a_tied_head_has_weights_of_its_own_only_on_another_stage(pp: int, tied: bool, holds: bool) -> None:
    parameters = work(pp=pp, tied=tied).head().parameters[0]
    assert parameters == ((1000 * HIDDEN + HIDDEN) if holds else 0)


def test_many_candidates_at_once_equal_each_alone() -> None:
    alone = [work(tp=tp) for tp in (1, 2, 4)]
    together = WorkModel(
        alone[0].model, alone[0].training, RoundTimes(),
        type(alone[0].candidates)(**{
            name: np.concatenate([getattr(one.candidates, name) for one in alone])
            for name in vars(alone[0].candidates)
        }),
    )  # fmt: skip
    block = together.model.layer_classes[0]
    for name, value in vars(together.layer(block)).items():
        singles = np.concatenate([np.atleast_1d(getattr(one.layer(block), name)) for one in alone])
        np.testing.assert_array_equal(value, singles)


def test_norms_of_queries_and_keys_cost_traffic_and_memory() -> None:
    model = small_model(hidden=HIDDEN)
    plain = model.layer_classes[0]
    normed = plain.model_copy(update={"attention": plain.attention.model_copy(update={"qk_norm": "per_head"})})
    heads = 64 + 32
    forward, backward = (
        [totals(traffic(block, model, work().training))[1] for block in (normed, plain)]
        for traffic in (forward_traffic, backward_traffic)
    )
    assert forward[0] - forward[1] == 18 * heads
    assert backward[0] - backward[1] == 46 * heads
    kept = [model.layer(block).activation_bytes_by_policy[0, 0] for model in [work()] for block in (normed, plain)]
    inverse_roots = 4 * (4 + 2)  # one in fp32 for each head
    assert kept[0] - kept[1] == TOKENS * ((4 + 2) * heads + inverse_roots)


def expert_work(stack: str = "shardwright", /, **degrees: int) -> WorkModel:
    chosen = candidates(micro_batch=BATCH, expert_dispatch=EXPERT_DISPATCH.index("all-to-all"), **degrees)
    return WorkModel(small_experts(hidden=HIDDEN), work(stack=stack).training, RoundTimes(), chosen)


@pytest.mark.parametrize(
    ("microbatches", "pp", "chunks", "paired"),
    [(4, 1, 1, 0.75), (16, 4, 2, 0.75), (4, 4, 2, 0.0), (2, 4, 2, 0.0), (16, 4, 1, 0.0)],
)
def test_dispatch_beside_another_microbatch_is_hidden_where_there_is_one(
    microbatches: int, pp: int, chunks: int, paired: float
) -> None:
    """A rank of a pipeline needs several chunks. Here compute is short, so the exchange of both passes outlasts both; under
    full recompute none of the three is overlapped."""
    plain = expert_work(dp_shard=8, ep=8, microbatches=microbatches, pp=pp, stages_per_rank=chunks)
    training = plain.training.model_copy(update={"overlaps_dispatch": True})
    overlapped = replace(plain, training=training)
    block = plain.model.layer_classes[0]
    alone, beside = (each.layer(block) for each in (plain, overlapped))
    one_way = alone.expert_parallel_forward_seconds
    compute = alone.forward_seconds + alone.backward_seconds
    assert (2 * one_way > compute).all()
    slowed = CALIBRATED.collective_multiprocessors / 100 * compute  # of the round device's multiprocessors
    exposed = (2 * one_way - compute + slowed) / 2
    expected = paired * exposed + (1 - paired) * one_way
    assert beside.expert_parallel_forward_seconds == pytest.approx(expected)
    backward = dict(zip(POLICIES, beside.expert_parallel_backward_seconds_by_policy[0], strict=True))
    assert backward["none"] == backward["selective"] == pytest.approx(expected.item())
    assert expected + backward["full"] == pytest.approx(3 * one_way)


@pytest.mark.parametrize(("taken", "share"), [(None, 0.2), (20, 0.2), (16, 0.16), (132, 1.0)])
def test_kernels_of_the_dispatch_take_multiprocessors_from_the_compute(taken: int | None, share: float) -> None:
    """Of the round device's 100. The exchange of both passes outlasts both, so all of their compute is slowed."""
    plain = expert_work(dp_shard=8, ep=8, microbatches=1000)
    chosen = {"overlaps_dispatch": True, "dispatch_multiprocessors": taken}
    overlapped = replace(plain, training=plain.training.model_copy(update=chosen))
    block = plain.model.layer_classes[0]
    alone, beside = (each.layer(block) for each in (plain, overlapped))
    compute = alone.forward_seconds + alone.backward_seconds
    hidden = 2 * (alone.expert_parallel_forward_seconds - beside.expert_parallel_forward_seconds)
    assert hidden == pytest.approx((1 - share) * compute * 0.999, abs=1e-12)


def in_low_precision(linear: str, *, high: int = 0, **degrees: int) -> RowWork:
    given = {"seq_len": SEQ, "global_batch": 8, "precision": {"linear": linear}, "stack": "megatron-core"}
    training = TrainingSpec.parse(given | {"high_precision_layers": high}, source="test")
    model = small_model(hidden=HIDDEN)
    frame = WorkModel(model, training, RoundTimes(), candidates(micro_batch=BATCH, **degrees))
    return frame.layer(model.layer_classes[0])


def test_layers_in_the_compute_format_count_as_their_share() -> None:
    """Low precision halves the round matmul: with 1 of 4 layers in bf16 matmuls take 5/8 of the time in bf16."""
    low, mixed = (in_low_precision("mxfp8", high=high) for high in (0, 1))
    matmuls = 2 * LAYER_WEIGHTS * TOKENS * 1e-12
    assert mixed.forward_seconds[0] - low.forward_seconds[0] == pytest.approx(matmuls * (5 / 8 - 1 / 2))
    assert mixed.backward_seconds[0] - low.backward_seconds[0] == pytest.approx(2 * matmuls * (5 / 8 - 1 / 2))


def test_four_bits_hide_no_tensor_parallel_communication_and_agree_on_scales() -> None:
    """Two pairs of a gather and a reduction a pass; in 8 bits all but one of 4 pieces runs beside matmuls."""
    split = {"tp": 4, "sequence_parallel": 1}
    pair = 2 * TOKENS * HIDDEN * 2 * 1e-9
    four, eight = (
        in_low_precision(linear, **split).tensor_parallel_forward_seconds[0] for linear in ("nvfp4", "mxfp8")
    )
    assert four == pytest.approx(2 * (pair + 4e-9))  # and a number of 4 bytes for each gathered input
    assert eight < four


def test_a_graph_takes_its_launches_off_the_host() -> None:
    """34 and 69 launches of a dense layer, of which 22 of 34 are attention's, and 27 and 38 of a router, of which 3 and 7
    choose experts."""

    class Launches(RoundTimes):
        def with_launches_seconds(self, busy_seconds: Number, kernels: Number) -> Array:
            return np.asarray(kernels, dtype=float)

    def launched(graphs: str, stack: str = "shardwright") -> tuple[float, float]:
        work = expert_work(dp_shard=8)
        training = work.training.model_copy(update={"cuda_graphs": graphs, "stack": stack})
        row = replace(work, training=training, times=Launches()).layer(work.model.layer_classes[0])
        return float(row.forward_seconds[0]), float(row.backward_seconds[0])

    assert launched("none") == (34 + 27, 69 + 38)
    assert launched("router") == (34 + 24, 69 + 31)
    assert launched("attention") == pytest.approx((12 + 27, 69 * 12 / 34 + 38))
    assert launched("attention+router") == pytest.approx((12 + 24, 69 * 12 / 34 + 31))
    assert launched("whole") == (0, 0)
    # Megatron-Core's router also has the balancing loss; 20 and 36 of the layer, 2 and 4 for each of eight experts
    assert launched("router", "megatron-core") == (20 + 37 - 24 + 16, 36 + 18 - 14 + 32)
    assert launched("router", "megatron-core-0.15") == (20 + 18 - 5 + 16, 36 + 10 - 6 + 32)


def test_context_parallelism_shares_tokens_and_attention_evenly() -> None:
    gathers = CONTEXT_PARALLEL.index("all-gather")
    whole, shared = work(stack="megatron-core"), work(stack="megatron-core", cp=4, context_parallel=gathers)
    block = whole.model.layer_classes[0]
    all_of_it, part = whole.layer(block), shared.layer(block)
    for name in ("forward_seconds", "backward_seconds", "activation_bytes_by_policy", "parameters"):
        ranks = 1 if name == "parameters" else 4
        np.testing.assert_allclose(getattr(part, name), getattr(all_of_it, name) / ranks, err_msg=name)
    keys_values = 2 * TOKENS * 2 * 32 * 1e-9
    assert part.context_parallel_forward_seconds[0] == pytest.approx(keys_values)
    by_policy = dict(zip(POLICIES, part.context_parallel_backward_seconds_by_policy[0], strict=True))
    assert by_policy == pytest.approx({"none": 2 * keys_values, "selective": 2 * keys_values, "full": 3 * keys_values})
    assert all_of_it.context_parallel_forward_seconds[0] == 0


def test_unfused_attention_over_context_parallel_ranks_is_as_much_work() -> None:
    whole, shared = work(attention="unfused"), work(attention="unfused", cp=4)
    block = whole.model.layer_classes[0]
    assert shared.layer(block).forward_seconds[0] == pytest.approx(whole.layer(block).forward_seconds[0] / 4)


ROUTER, EXPERT = HIDDEN * 8, 3 * HIDDEN * HIDDEN
ATTENTION = 64 * 128 + 64 * 64


@pytest.mark.parametrize(
    "degrees",
    [
        dict(dp_shard=8),
        dict(dp_shard=8, ep=8),
        dict(dp_shard=4, tp=2, ep=8, sequence_parallel=1),
        dict(dp_shard=2, tp=4, ep=2, sequence_parallel=1),
        dict(dp_shard=2, cp=2, tp=2, ep=4, sequence_parallel=1),
    ],
    ids=str,
)
def test_flops_of_experts_do_not_depend_on_where_they_lie(degrees: dict[str, int]) -> None:
    """Two experts and the shared one for every token, and the router, which every tp rank computes."""
    model = expert_work(**degrees)
    tp, cp = degrees.get("tp", 1), degrees.get("cp", 1)
    split = 2 * (ATTENTION + 3 * EXPERT) * TOKENS / (tp * cp) * 1e-12
    core = 2 * 2 * TOKENS * (SEQ + 1) / 2 * 64 / (tp * cp) * 1e-12
    found = model.layer(model.model.layer_classes[0]).forward_seconds[0]
    assert found == pytest.approx(split + core + 2 * ROUTER * TOKENS / cp * 1e-12)


@pytest.mark.parametrize(
    ("degrees", "rest", "experts"),
    [
        (dict(dp_shard=8), ROUTER + ATTENTION + 9 * EXPERT, 0),
        (dict(dp_shard=8, ep=4), ROUTER + ATTENTION + EXPERT, 8 * EXPERT / 4),
        (dict(dp_shard=4, tp=2, ep=4), ROUTER + (ATTENTION + EXPERT) / 2, 8 * EXPERT / 4),
        (dict(dp_shard=2, tp=4, ep=2), ROUTER + (ATTENTION + EXPERT) / 4, 8 * EXPERT / 4),
    ],
    ids=str,
)
def test_experts_that_ep_spreads_are_counted_apart(degrees: dict[str, int], rest: float, experts: float) -> None:
    model = expert_work(**degrees)
    layer = model.layer(model.model.layer_classes[0])
    assert (layer.parameters[0], layer.expert_parameters[0]) == (rest + 2 * HIDDEN, experts)


def test_experts_elsewhere_need_no_gather_over_tp_but_the_shared_one_does() -> None:
    apart, together = (expert_work("dualpipe", dp_shard=4, tp=2, ep=ep, sequence_parallel=1) for ep in (8, 1))
    block = apart.model.layer_classes[0]
    alone = Block(attention=block.attention, ffn=block.ffn.model_copy(update={"shared_width": 0}))
    pair = 2 * 2 * TOKENS * HIDDEN * 1e-9
    assert together.layer(alone).tensor_parallel_forward_seconds[0] == pytest.approx(2 * pair)
    assert apart.layer(block).tensor_parallel_forward_seconds[0] == pytest.approx(2 * pair)
    assert apart.layer(alone).tensor_parallel_forward_seconds[0] == pytest.approx(pair)
    assert apart.layer(block).expert_parallel_forward_seconds[0] == pytest.approx(
        2 * 2 * 2 * TOKENS / 2 * HIDDEN * 1e-9
    )


def test_in_this_executor_experts_sum_whole_hidden_states_over_tp() -> None:
    """Beside the pair of attention a gather, the sum of the experts, and that of the shared one, wherever the experts lie."""
    for ep in (8, 1):
        model = expert_work(dp_shard=4, tp=2, ep=ep, sequence_parallel=1)
        block = model.model.layer_classes[0]
        alone = Block(attention=block.attention, ffn=block.ffn.model_copy(update={"shared_width": 0}))
        one = 2 * TOKENS * HIDDEN * 1e-9
        assert model.layer(alone).tensor_parallel_forward_seconds[0] == pytest.approx(4 * one)
        assert model.layer(block).tensor_parallel_forward_seconds[0] == pytest.approx(5 * one)


@pytest.mark.parametrize(("stack", "experts"), [("shardwright", 1), ("torchtitan", 3)])
def test_low_precision_halves_weight_matmuls_and_neither_router_nor_attention(stack: str, experts: int) -> None:
    """Where software lowers linears alone, the shared expert; elsewhere also the two to which a token is routed."""
    model = expert_work(stack, dp_shard=8)
    lower = model.training.model_copy(update={"precision": Precision(linear="fp8")})
    low = WorkModel(model.model, lower, model.times, model.candidates)
    block = model.model.layer_classes[0]
    saved = model.layer(block).forward_seconds - low.layer(block).forward_seconds
    assert saved[0] == pytest.approx(2 * (ATTENTION + experts * EXPERT) * TOKENS / 2 * 1e-12)
    assert low.head().forward_seconds[0] == model.head().forward_seconds[0]


def test_sequence_parallelism_gathers_in_fp8_what_it_reduces_in_bf16() -> None:
    model = work(tp=4, sequence_parallel=1)
    lower = model.training.model_copy(update={"precision": Precision(linear="fp8", gather="fp8")})
    low = WorkModel(model.model, lower, model.times, model.candidates)
    block = model.model.layer_classes[0]
    scales = 7 * 2 * 4  # two fp32 numbers for each linear, on which ranks agree
    expected = (2 * (1 + 2) * TOKENS * HIDDEN + scales) * 1e-9
    assert low.layer(block).tensor_parallel_forward_seconds[0] == pytest.approx(expected)
    assert low.head().tensor_parallel_forward_seconds[0] == model.head().tensor_parallel_forward_seconds[0]


def with_predictions(model: WorkModel, layers: int) -> WorkModel:
    return replace(model, training=model.training.model_copy(update={"mtp_layers": layers}))


@pytest.mark.parametrize("layers", [1, 2])
def test_a_layer_that_predicts_later_tokens_is_a_projection_a_layer_and_a_head_more(layers: int) -> None:
    """Beside the model's own head: 2 h x h, a layer's weights and its attention core, and h x 1000 again."""
    plain, found = work().head(), with_predictions(work(), layers).head()
    layer = work().layer(work().model.layer_classes[0])
    projection, head = 2 * TOKENS * 2 * HIDDEN * HIDDEN * 1e-12, 2 * TOKENS * HIDDEN * 1000 * 1e-12
    more = layers * (projection + layer.forward_seconds + head)
    assert found.forward_seconds - plain.forward_seconds == pytest.approx(more)
    more = layers * (2 * projection + layer.backward_seconds + 2 * head)
    assert found.backward_seconds - plain.backward_seconds == pytest.approx(more)
    # the head is the same one; the layer's own, the projection, and the norms of its two inputs
    more = layers * (layer.parameters + 2 * HIDDEN * HIDDEN + 2 * HIDDEN)
    assert found.parameters - plain.parameters == pytest.approx(more)


def test_a_layer_that_predicts_keeps_what_a_layer_keeps_and_its_logits() -> None:
    plain, found = work().head(), with_predictions(work(), 1).head()
    layer = work().layer(work().model.layer_classes[0])
    none = POLICIES.index("none")
    kept = layer.activation_bytes_by_policy[:, none] + plain.activation_bytes_by_policy[:, none]
    # two norms of the Llama code (fp32 input, output before the weight, and an inverse root), and the matmul's two inputs
    joined = TOKENS * 2 * ((4 + 2) * HIDDEN + 4 + 2 * HIDDEN)
    more = found.activation_bytes_by_policy - plain.activation_bytes_by_policy
    assert more == pytest.approx(np.broadcast_to((kept + joined)[:, None], more.shape))
    largest = np.maximum(plain.working_bytes_by_policy, layer.working_bytes_by_policy[:, none, None])
    assert found.working_bytes_by_policy == pytest.approx(largest)


@pytest.mark.parametrize(("tied", "pp", "copies"), [(False, 1, 0), (False, 2, 1), (True, 2, 0)])
def test_predictions_on_another_stage_need_the_embedding_again(tied: bool, pp: int, copies: int) -> None:
    """A tied one lies with the head already."""
    model = work(tied=tied, pp=pp)
    layer = model.layer(model.model.layer_classes[0])
    more = with_predictions(model, 1).head().parameters - model.head().parameters
    assert more == pytest.approx(layer.parameters + 2 * HIDDEN * HIDDEN + 2 * HIDDEN + copies * 1000 * HIDDEN)


def test_experts_of_a_predicting_layer_are_exchanged_too() -> None:
    model = expert_work(dp_shard=8, ep=4)
    layer = model.layer(model.model.layer_classes[-1])
    found = with_predictions(model, 1).head()
    assert layer.expert_parallel_forward_seconds[0] > 0
    assert found.expert_parallel_forward_seconds == pytest.approx(layer.expert_parallel_forward_seconds)
    assert found.expert_parameters == pytest.approx(layer.expert_parameters)
