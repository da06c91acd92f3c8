"""Every size that must divide, and the line that a user reads when it does not."""

import pytest

from shardwright.base.errors import InfeasibleError, SpecError
from shardwright.costmodel.checks import check_memory, check_plan
from shardwright.costmodel.evaluate import estimate_plan
from shardwright.specs.mesh import Mesh
from shardwright.specs.model.linear_attention import GatedDelta
from shardwright.specs.model.model import BlockRun, ModelSpec
from shardwright.specs.plan import LayerRun, Plan, Stage
from shardwright.specs.training import TrainingSpec
from tests.costmodel.fakes import round_cluster, small_experts, small_model

TRAINING = TrainingSpec(seq_len=128, global_batch=16)


def plan(
    *, layers: tuple[int, ...] = (4,), micro_batch: int = 2, microbatches: int = 8, zero: int = 0, **mesh: int
) -> Plan:
    stages = tuple(Stage(layers=(LayerRun.parse({"count": n, "zero_stage": zero}, source="test"),)) for n in layers)
    return Plan(
        mesh=Mesh.parse({"pp": len(layers), **mesh}, source="test"),
        micro_batch=micro_batch,
        microbatches=microbatches,
        stages=stages,
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            plan(dp_replicate=16, microbatches=1, micro_batch=1),
            r"needs 16 ranks \(dp_replicate16\) and round has 8 devices",
        ),
        (
            plan(layers=(1, 1, 1, 1, 1, 1, 1)),
            "7 stages are more than the 4 layers of small, its embedding and its head",
        ),
        (plan(layers=(2, 3)), "hold 5 layers and small has 4"),
        (plan(microbatches=7), "dp 1 x micro batch 2 x 7 microbatches is 14 sequences, the global batch is 16"),
        (plan(tp=3), "tp 3 does not divide the 4 attention heads of small; allowed: 1, 2$"),
        (plan(tp=4), "tp 4 does not divide the 2 KV heads of small; allowed: 1, 2"),
    ],
)
def test_what_does_not_divide_is_named(wrong: Plan, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        check_plan(wrong, small_model(), round_cluster(), TRAINING)


def shared(context_parallel: str, **mesh: int) -> Plan:
    degrees = Mesh.parse(mesh, source="test")
    return plan(microbatches=8).model_copy(update={"mesh": degrees, "context_parallel": context_parallel})


@pytest.mark.parametrize(
    ("wrong", "seq_len", "says"),
    [
        (shared("ring", cp=4), 124, r"cp 4 \(ring\) cuts a sequence into 8 parts and 124 tokens .* does is 128$"),
        (shared("all-gather", cp=2, tp=2), 132, r"into 8 parts and 132 tokens don't divide by that; .* is 128$"),
        (
            shared("ulysses", cp=4, tp=2),
            128,
            r"tp 2 leaves 2 heads and 1 KV heads of small on one; allowed: 1, 2; ring and all-gather",
        ),
    ],
)
def test_context_parallelism_that_does_not_divide(wrong: Plan, seq_len: int, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        check_plan(wrong, small_model(), round_cluster(), TrainingSpec(seq_len=seq_len, global_batch=16))


@pytest.mark.parametrize(
    ("of", "training", "says"),
    [
        (shared("all-gather", cp=2), {}, "cp 2, which cuts the sequence too; plan with cp 1"),
        (shared("ring", tp=2), {}, "sequence_parallel; plan with --no-sequence-parallel"),
        (plan(), {"stack": "megatron-core"}, "stack 'megatron-core'; plan for stack 'shardwright'"),
        (plan(), {"attention": "unfused"}, "unfused attention; plan with --attention flash"),
        (plan(), {"mlp_tiles": 2}, "mlp_tiles 2, whose work the pieces do; leave out --mlp-tiles"),
        (plan(), {"recompute_modules": ("mlp",)}, "recompute by modules; leave out --recompute-modules"),
        (plan(), {"activation_offload_layers": 1}, "activation_offload_layers; leave it out"),
        (plan(), {"seq_len": 2}, "2 tokens; give at most 2"),
    ],
)
def test_what_does_not_go_with_pieces_of_the_sequence(of: Plan, training: dict[str, object], says: str) -> None:
    given = TrainingSpec.parse({"seq_len": 128, "global_batch": 16, "sequence_chunks": 4} | training, source="test")
    with pytest.raises(SpecError, match=f"sequence_chunks 4 does not go with {says}$"):
        check_plan(of, small_model(), round_cluster(), given)


def test_layers_of_experts_do_not_go_in_pieces() -> None:
    given = TrainingSpec(seq_len=128, global_batch=16, sequence_chunks=4)
    with pytest.raises(
        SpecError, match="which is not attention and then a dense feed-forward; leave out --sequence-chunks"
    ):
        check_plan(plan(), small_experts(), round_cluster(), given)
    check_plan(plan(), small_model(), round_cluster(), given)


def test_ulysses_has_no_halves_to_deal() -> None:
    training = TrainingSpec(seq_len=130, global_batch=16)
    check_plan(shared("ulysses", cp=2), small_model(), round_cluster(), training)
    with pytest.raises(SpecError, match="cuts a sequence into 4 parts"):
        check_plan(shared("ring", cp=2), small_model(), round_cluster(), training)


def test_ulysses_may_have_more_ranks_than_kv_heads() -> None:
    """Four heads and two KV heads: each KV head goes to two ranks."""
    check_plan(shared("ulysses", cp=4), small_model(), round_cluster(), TRAINING)


@pytest.mark.parametrize(
    ("kind", "window", "refused"),
    [
        ("ring", 64, True),
        ("ulysses-ring", 64, True),
        ("ring", 128, False),
        ("all-gather", 64, False),
        ("ulysses", 64, False),
    ],
)
def test_windows_do_not_go_round_a_ring(kind: str, window: int, refused: bool) -> None:
    """A window as long as the sequence is none."""
    given = small_model()
    block = given.blocks[0].block
    windowed = block.model_copy(update={"attention": block.attention.model_copy(update={"window": window})})
    model = given.model_copy(update={"blocks": (BlockRun(count=4, block=windowed),)})
    wrong = shared(kind, cp=4).model_copy(update={"ulysses_degree": 2 if kind == "ulysses-ring" else 1})
    if not refused:
        return check_plan(wrong, model, round_cluster(), TRAINING)
    with pytest.raises(SpecError, match=f"small in windows of 64 tokens does not run over a {kind}; set .* all-gather"):
        check_plan(wrong, model, round_cluster(), TRAINING)


def test_the_own_executor_divides_no_unfused_attention() -> None:
    unfused = TRAINING.model_copy(update={"attention": "unfused"})
    with pytest.raises(SpecError, match="cp 2 needs fused attention in stack shardwright; set cp 1, or --attention"):
        check_plan(shared("all-gather", cp=2), small_model(), round_cluster(), unfused)
    other = unfused.model_copy(update={"stack": "megatron-core"})
    check_plan(shared("all-gather", cp=2), small_model(), round_cluster(), other)


def test_cp_goes_with_linear_attention_where_the_software_passes_states_on() -> None:
    given = small_model()
    linear = GatedDelta(heads=4, key_heads=2, key_size=16, value_size=16)
    block = given.blocks[0].block.model_copy(update={"attention": linear})
    model = given.model_copy(update={"blocks": (BlockRun(count=4, block=block),)})
    check_plan(shared("all-gather", cp=2), model, round_cluster(), TRAINING)
    with pytest.raises(SpecError, match="linear attention of small in stack megatron-core; set cp 1"):
        check_plan(
            shared("all-gather", cp=2), model, round_cluster(), TRAINING.model_copy(update={"stack": "megatron-core"})
        )
    since = TRAINING.model_copy(update={"stack": "megatron-core-0.15"})
    check_plan(shared("all-gather", cp=2), model, round_cluster(), since)


def test_the_own_executor_does_not_share_experts_with_biases() -> None:
    given = small_experts()
    block = given.blocks[0].block
    biased = block.model_copy(update={"ffn": block.ffn.model_copy(update={"bias": True})})
    model = given.model_copy(update={"blocks": (BlockRun(count=4, block=biased),)})
    training = TrainingSpec(seq_len=128, global_batch=4)
    in_columns, whole = (plan(zero=1, dp_shard=4, tp=2, ep=ep, microbatches=1, micro_batch=1) for ep in (1, 8))
    in_columns = in_columns.model_copy(update={"mesh": Mesh(dp_shard=4, tp=2, ep=4, etp=2)})
    with pytest.raises(
        SpecError, match="2 ranks cannot share the columns of small experts's experts, which have biases"
    ):
        check_plan(in_columns, model, round_cluster(), training)
    check_plan(in_columns, given, round_cluster(), training)
    check_plan(whole, model, round_cluster(), training)


def test_experts_that_ep_does_not_divide() -> None:
    spread = plan(zero=1, dp_shard=3, ep=3, microbatches=1, micro_batch=1)
    training = TrainingSpec(seq_len=128, global_batch=3)
    with pytest.raises(SpecError, match="ep 3 does not divide the 8 experts of small experts; allowed: 1, 2, 4, 8"):
        check_plan(spread, small_experts(), round_cluster(), training)
    with pytest.raises(SpecError, match="ep 3 spreads experts and small has none; set ep 1"):
        check_plan(spread, small_model(), round_cluster(), training)


def test_whole_experts_need_not_divide_by_tp() -> None:
    training = TrainingSpec(seq_len=128, global_batch=4)
    odd = small_experts(hidden=60)
    model = odd.model_validate(odd.model_dump() | {"blocks": _with_expert_width(odd, 61)})
    whole = plan(zero=1, dp_shard=4, tp=2, ep=8, microbatches=1, micro_batch=1)
    check_plan(whole, model, round_cluster(), training)
    with pytest.raises(SpecError, match="tp 2 does not divide the 61 columns of an expert"):
        check_plan(plan(zero=1, dp_shard=4, tp=2, microbatches=1, micro_batch=1), model, round_cluster(), training)


def _with_expert_width(model: ModelSpec, width: int) -> list[dict[str, object]]:
    (run,) = model.model_dump()["blocks"]
    run["block"]["ffn"]["expert_width"] = width
    return [run]


def test_a_sequence_that_tp_does_not_divide() -> None:
    with pytest.raises(SpecError, match="tp 2 does not divide the 127 tokens of a sequence"):
        check_plan(plan(tp=2), small_model(), round_cluster(), TrainingSpec(seq_len=127, global_batch=16))


def test_a_sequence_longer_than_learned_positions() -> None:
    model = small_model().model_copy(update={"positions": 64})
    with pytest.raises(SpecError, match="sequence length 128 is more than the 64 learned positions"):
        check_plan(plan(), model, round_cluster(), TRAINING)


def test_a_good_plan_passes() -> None:
    check_plan(plan(layers=(2, 2), tp=2, dp_replicate=2, microbatches=4), small_model(), round_cluster(), TRAINING)


def test_memory_names_the_rank_and_how_much_is_missing() -> None:
    small = round_cluster(memory_bytes=1e9)
    estimate = estimate_plan(small_model(hidden=1024), small, TRAINING, plan(layers=(1, 3)))
    assert estimate.memory[1].total > 1e9
    with pytest.raises(
        InfeasibleError, match=r"pipeline rank \d needs \d\.\d GiB and round has 0\.9 usable: \d\.\d GiB too much"
    ):
        check_memory(estimate, small)
    check_memory(estimate, round_cluster())


def test_means_are_for_one_expert_each() -> None:
    given = plan(dp_shard=4, ep=4, microbatches=2, zero=1).model_copy(update={"expert_dispatch": "deduplicated"})
    training = TRAINING.model_copy(update={"tokens_per_centroid": 5})
    with pytest.raises(
        SpecError, match="'deduplicated' sends one copy of a token for several experts, and tokens_per_centroid 5 means"
    ):
        check_plan(given, small_experts(), round_cluster(), training)
