"""Recompute by modules: what each one repeats and frees, by hand, and in the costs of a plan."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from shardwright.base.arrays import Array, Number
from shardwright.base.errors import SpecError
from shardwright.costmodel.evaluate import plan_costs
from shardwright.costmodel.layers.all_rows import WorkModel
from shardwright.costmodel.layers.operators import experts_as_the_rest
from shardwright.costmodel.layers.recompute import RepeatedModules, repeated_modules
from shardwright.costmodel.plan_costs import PlanCosts
from shardwright.specs.mesh import Mesh
from shardwright.specs.model.attention import LatentAttention, MultiHeadAttention
from shardwright.specs.model.feed_forward import FeedForward, MixtureOfExperts
from shardwright.specs.model.model import Block, BlockRun, ModelSpec
from shardwright.specs.plan import POLICIES, LayerRun, Plan, Stage
from shardwright.specs.training import Precision, RecomputeModule, TrainingSpec
from tests.costmodel.fakes import RoundTimes, round_cluster
from tests.specs.test_candidates import candidates

HIDDEN, SEQ = 64, 128
LATENT = LatentAttention(heads=4, query_rank=24, kv_rank=16, plain_size=12, rotary_size=4, value_head_size=12)
EXPERTS = Block(attention=LATENT, ffn=MixtureOfExperts(experts=8, top_k=2, expert_width=48, shared_width=32))
DENSE = Block(attention=MultiHeadAttention(heads=4, kv_heads=2, head_size=16), ffn=FeedForward(width=160, gated=True))


def model(block: Block) -> ModelSpec:
    return ModelSpec(
        name="m", family="llama", hidden_size=HIDDEN, vocab_size=1000, blocks=(BlockRun(count=2, block=block),)
    )


def training(*modules: RecomputeModule, **choices: object) -> TrainingSpec:
    values = {"seq_len": SEQ, "global_batch": 2, "stack": "megatron-core", "recompute_modules": modules} | choices
    return TrainingSpec.parse(values, source="test")


def repeated(
    block: Block, *modules: RecomputeModule, tp: int = 1, split: int = 1, **choices: object
) -> RepeatedModules:
    job = (block, model(block), training(*modules, **choices), np.array([256.0]))
    return repeated_modules(*job, np.array([tp]), np.array([split]), experts_as_the_rest(np.array([tp])))


def shapes(found: RepeatedModules) -> list[tuple[float, float]]:
    """(k, n) of each repeated matmul."""
    return [(np.asarray(matmul.k).item(), np.asarray(matmul.n).item()) for matmul in found.matmuls]


def kinds(found: RepeatedModules) -> list[tuple[str, float, float, float]]:
    return [
        (each.operator, float(np.asarray(each.hidden).item()), float(np.asarray(each.inner).item()), each.count)
        for each in found.traffic
    ]


ROUTER_AND_EXPERTS = [(HIDDEN, 8), (HIDDEN, 2 * 48), (48, HIDDEN)]
SHARED = [(HIDDEN, 2 * 32), (32, HIDDEN)]


@pytest.mark.parametrize(
    ("block", "module", "matmuls", "traffic", "freed"),
    [
        (EXPERTS, "core_attn", [], [], 4 * 4),  # a log-sum-exp in fp32 for each head
        (EXPERTS, "layernorm", [], [("rmsnorm", HIDDEN, 0, 2)], 2 * 2 * HIDDEN),
        # queries and keys of 12 + 4, values of 12
        (EXPERTS, "mla_up_proj", [(24, 4 * 16), (16, 4 * 24)], [("rotary", 0, 8 * 16, 1)], 2 * 4 * (16 + 16 + 12)),
        (EXPERTS, "moe_act", [], [("gated_activation", 0, 2 * 48, 1)], 2 * 2 * 48),
        (EXPERTS, "shared_experts", SHARED, [("gated_activation", 0, 32, 1)], 3 * 2 * 32),
        (EXPERTS, "mlp", [], [], 0),
        (DENSE, "mlp", [(HIDDEN, 320), (160, HIDDEN)], [("gated_activation", 0, 160, 1)], 3 * 2 * 160),
        (DENSE, "moe", [], [], 0),
        (DENSE, "moe_act", [], [], 0),
        (DENSE, "shared_experts", [], [], 0),
        (DENSE, "mla_up_proj", [], [], 0),
    ],
)
def test_a_module_repeats_its_work_and_frees_what_it_makes_again(
    block: Block,
    module: RecomputeModule,
    matmuls: Sequence[tuple[float, float]],
    traffic: Sequence[tuple[str, float, float, int]],
    freed: float,
) -> None:
    found = repeated(block, module)
    assert shapes(found) == matmuls
    assert kinds(found) == traffic
    assert np.asarray(found.freed_bytes).item() == freed
    assert (found.core, found.exchange) == (module == "core_attn", False)


def test_a_layer_of_experts_runs_again_as_a_whole() -> None:
    """Its columns in three tensors, two copies of a token, and the router's choice; its exchange, too."""
    found = repeated(EXPERTS, "moe")
    assert shapes(found) == ROUTER_AND_EXPERTS + SHARED
    assert [kind for kind, *_ in kinds(found)] == ["gated_activation", "copy"]
    assert np.asarray(found.freed_bytes).item() == 3 * 2 * (2 * 48 + 32) + 2 * 2 * HIDDEN + 4 * 8
    assert found.exchange


def test_parts_of_a_repeated_module_count_once() -> None:
    both, whole = repeated(EXPERTS, "moe", "moe_act", "shared_experts"), repeated(EXPERTS, "moe")
    assert shapes(both) == shapes(whole)
    assert both.freed_bytes == whole.freed_bytes
    assert training("moe_act", "moe_act").recompute_modules == ("moe_act",)


def test_modules_add_up() -> None:
    found = repeated(EXPERTS, "layernorm", "moe_act", "core_attn")
    assert [kind for kind, *_ in kinds(found)] == ["rmsnorm", "gated_activation"]
    assert np.asarray(found.freed_bytes).item() == 256 + 192 + 16
    assert found.core


def test_tp_splits_what_is_freed_and_sequence_parallelism_the_norms() -> None:
    assert np.asarray(repeated(DENSE, "mlp", tp=4).freed_bytes).item() == 3 * 2 * 160 / 4
    assert np.asarray(repeated(DENSE, "layernorm", tp=4, split=4).freed_bytes).item() == 2 * 2 * HIDDEN / 4


def test_unfused_attention_frees_its_scores() -> None:
    """A fused softmax in 16 bits for each of 4 heads and 128 keys."""
    assert np.asarray(repeated(DENSE, "core_attn", attention="unfused").freed_bytes).item() == 2 * 4 * SEQ


def test_norms_that_write_eight_bits_free_eight_bits() -> None:
    lower = repeated(DENSE, "layernorm", precision=Precision(linear="fp8"))
    assert np.asarray(lower.freed_bytes).item() == 2 * HIDDEN


def costs(block: Block, *modules: RecomputeModule) -> PlanCosts:
    stages = (Stage(layers=(LayerRun(count=2, recompute="selective"),)),)
    plan = Plan(mesh=Mesh(), micro_batch=1, microbatches=2, stages=stages)
    return plan_costs(model(block), round_cluster(), training(*modules), plan, RoundTimes())


@pytest.mark.parametrize(
    ("block", "module", "columns"),
    [
        (EXPERTS, "mla_up_proj", 24 * 64 + 16 * 96),
        (EXPERTS, "shared_experts", 3 * HIDDEN * 32),
        (DENSE, "mlp", 3 * HIDDEN * 160),
    ],
)
def test_the_backward_pass_takes_as_much_longer_and_activations_less(
    block: Block, module: RecomputeModule, columns: int
) -> None:
    """Two layers of 128 tokens at a second for 1e12 FLOPs. Megatron's plain selective recompute keeps no scores of a fused
    kernel and repeats nothing."""
    plain, found = costs(block), costs(block, module)
    again = 2 * 2 * SEQ * columns
    assert found.stage_costs().backward - plain.stage_costs().backward == pytest.approx(again * 1e-12)
    freed = 2 * SEQ * np.asarray(repeated(block, module).freed_bytes).item()
    assert plain.activation_bytes_per_stage() - found.activation_bytes_per_stage() == pytest.approx(freed)
    assert found.estimate().hardware_flops - plain.estimate().hardware_flops == pytest.approx(2 * again)


def test_a_repeated_core_is_a_forward_of_it() -> None:
    """2 T s (d_k + d_v) a head, and the causal half of it with (s + 1) / 2 keys."""
    plain, found = costs(DENSE), costs(DENSE, "core_attn")
    flops = 2 * SEQ * (SEQ + 1) / 2 * 4 * 32
    assert found.stage_costs().backward - plain.stage_costs().backward == pytest.approx(2 * flops * 1e-12)
    assert found.estimate().hardware_flops - plain.estimate().hardware_flops == pytest.approx(
        2 * 2 * 2 * SEQ * SEQ * 128
    )


def test_repeated_norms_and_activations_take_the_time_of_their_traffic() -> None:
    """A second for each byte: a norm reads and writes 64 elements of 2 bytes, twice; SwiGLU moves three tensors of 160."""

    class Traffic(RoundTimes):
        def memory_bound_seconds(self, moved_bytes: Number) -> Array:
            return np.asarray(moved_bytes, dtype=float)

    work = WorkModel(model(DENSE), training(), Traffic(), candidates(micro_batch=2))
    selective = POLICIES.index("selective")

    def again(*modules: RecomputeModule) -> float:
        row = replace(work, training=training(*modules)).layer(DENSE)
        return float(row.recompute_seconds_by_policy[0, selective])

    tokens = 2 * SEQ
    assert again() == 0
    assert again("layernorm") == pytest.approx(tokens * 2 * 2 * 2 * HIDDEN)
    assert again("mlp") == pytest.approx(tokens * 2 * 3 * 160, rel=1e-6)  # and its matmuls, some 1e-5 s


def test_a_repeated_layer_of_experts_exchanges_its_tokens_again() -> None:
    """The exchange of the forward once more, beside that of the backward."""
    work = WorkModel(model(EXPERTS), training(), RoundTimes(), candidates(dp_shard=8, ep=4, micro_batch=2))
    selective = POLICIES.index("selective")
    plain, found = (
        replace(work, training=training(*modules)).layer(EXPERTS).expert_parallel_backward_seconds_by_policy[0]
        for modules in ((), ("moe",))
    )
    assert plain[selective] > 0
    assert found[selective] == pytest.approx(2 * plain[selective]) == pytest.approx(found[POLICIES.index("full")])


@pytest.mark.parametrize("stack", ["hf-trainer", "torchtitan", "megatron-lm", "megatron-zero-bubble"])
def test_other_layers_have_no_such_modules(stack: str) -> None:
    with pytest.raises(SpecError, match=r"names none; leave them out, or use stack megatron-core or nemo"):
        training("layernorm", stack=stack)


def test_the_executor_names_what_it_does_not_repeat() -> None:
    with pytest.raises(SpecError, match=r"mla_up_proj: stack shardwright repeats core_attn\+layernorm\+mlp"):
        training("mlp", "mla_up_proj", stack="shardwright")


def test_modules_are_read_from_one_word() -> None:
    assert training().recompute_modules == ()
    found = TrainingSpec.parse(
        {"seq_len": 8, "global_batch": 1, "stack": "nemo", "recompute_modules": "core_attn+ moe_act"}, source="test"
    )
    assert found.recompute_modules == ("core_attn", "moe_act")
    with pytest.raises(SpecError, match="'layer_norm'"):
        TrainingSpec.parse(
            {"seq_len": 8, "global_batch": 1, "stack": "nemo", "recompute_modules": "layer_norm"}, source="test"
        )
