"""What runs again in the backward pass, by modules or in tiles, trains as one process does; a fault in it shows."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from shardwright.base.errors import SpecError
from shardwright.catalog.huggingface import model_from_config
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.model import read_skeleton
from shardwright.executor.recompute import check_recompute
from shardwright.planner import search
from shardwright.planner.space.variants import OpenChoices
from shardwright.specs.plan import LayerRun
from shardwright.specs.training import Precision, TrainingSpec
from tests.parity import faults_of_repetition as faults
from tests.parity.cases import host, layers, model_config, plan, plan_file
from tests.parity.families import FAMILIES
from tests.parity.updates import TOLERANCE, assert_equal_to, engine_run, reference_run, worst_update_error
from tests.parity.worlds import run_again, run_in_turn

LLAMA, QWEN3, GPT2 = model_config("llama"), model_config("qwen3"), model_config("gpt2")
SELECTIVE_3, SELECTIVE_1 = layers(1, zero=3, recompute="selective"), layers(1, zero=1, recompute="selective")


def selective(zero: int = 0) -> LayerRun:
    return LayerRun(count=2, zero_stage=zero, recompute="selective")


class Case(NamedTuple):
    """A plan, and faults that its comparison must notice."""

    plan_file: PlanFile
    faults: tuple[Callable[[], None], ...] = ()


CASES = {
    "mlp, norms and core, zero 3": Case(
        plan_file(
            LLAMA,
            plan((selective(3),), dp_shard=2),
            attention="unfused",
            recompute_modules="mlp+layernorm+core_attn",
        ),
        (faults.detach_repeated_modules,),
    ),
    "mlp and norms, sequence parallelism": Case(
        plan_file(QWEN3, plan((selective(),), tp=2), recompute_modules="mlp+layernorm"),
        (faults.detach_repeated_modules,),
    ),
    "mlp, tp without sequence parallelism": Case(
        plan_file(GPT2, plan((selective(),), tp=2, sequence_parallel=False), recompute_modules="mlp")
    ),
    "mlp and norms, cp by ring, zero 2": Case(
        plan_file(LLAMA, plan((selective(2),), cp=2, context_parallel="ring"), recompute_modules="mlp+layernorm")
    ),
    "mlp and norms, 1f1b": Case(
        plan_file(
            QWEN3,
            plan((layers(1, recompute="selective"),), (layers(1),), pp=2, microbatches=4),
            recompute_modules="mlp+layernorm",
        ),
        (faults.detach_repeated_modules,),
    ),
    "moe, ep, zero 3": Case(
        plan_file(FAMILIES["qwen3_moe"], plan((selective(3),), dp_shard=2, ep=2), recompute_modules="moe+layernorm"),
        (faults.detach_repeated_modules,),
    ),
    "moe, tp": Case(plan_file(FAMILIES["qwen3_moe"], plan((selective(),), tp=2), recompute_modules="moe")),
    "activation of experts and shared experts, tp": Case(
        plan_file(FAMILIES["qwen2_moe"], plan((selective(),), tp=2), recompute_modules="moe_act+shared_experts+mlp"),
        (faults.detach_repeated_modules,),
    ),
    "activation of clamped experts, zero 2": Case(
        plan_file(FAMILIES["gpt_oss"], plan((selective(2),), dp_shard=2), recompute_modules="moe_act+core_attn")
    ),
    "shared experts, ep over tp": Case(
        plan_file(
            FAMILIES["deepseek_v3"], plan((selective(),), tp=2, ep=2), recompute_modules="shared_experts+layernorm+mlp"
        )
    ),
    "tiles, zero 3": Case(
        plan_file(LLAMA, plan((layers(zero=3),), dp_shard=2), mlp_tiles=3),
        (faults.detach_repeated_modules, faults.blank_last_tile),
    ),
    "tiles, sequence parallelism": Case(
        plan_file(QWEN3, plan((layers(),), tp=2), mlp_tiles=4),
        (faults.tile_without_regard_to_ranks, faults.blank_last_tile),
    ),
    "tiles, tp without sequence parallelism, full recompute": Case(
        plan_file(GPT2, plan((layers(recompute="full"),), tp=2, sequence_parallel=False), mlp_tiles=4)
    ),
    "tiles and norms, interleaved 1f1b": Case(
        plan_file(
            model_config("llama", layers=4),
            plan(*[(layers(1, recompute="selective"),)] * 4, pp=2, schedule="interleaved-1f1b"),
            recompute_modules="layernorm+mlp",
            mlp_tiles=2,
        )
    ),
    "tiles of the dense layer alone, ep": Case(
        plan_file(FAMILIES["qwen2_moe"], plan((layers(zero=1),), dp_shard=2, ep=2), mlp_tiles=2),
        (faults.blank_last_tile,),
    ),
    "tiles of fused projections, cp by all-gather": Case(
        plan_file(FAMILIES["phi3"], plan((layers(),), cp=2), mlp_tiles=4)
    ),
    "mlp and norms, pp, tp and zero on 8 ranks": Case(
        plan_file(
            QWEN3,
            plan((SELECTIVE_3,), (SELECTIVE_1,), pp=2, dp_shard=2, tp=2, microbatches=4),
            recompute_modules="mlp+layernorm",
        ),
        (faults.detach_repeated_modules,),
    ),
    "tiles, cp, pp and tp on 8 ranks": Case(
        plan_file(
            LLAMA,
            plan((layers(1, zero=2),), (layers(1, zero=3),), pp=2, cp=2, tp=2, context_parallel="ring"),
            mlp_tiles=2,
        ),
        (faults.tile_without_regard_to_ranks,),
    ),
}
FAULTS = sorted(
    [(name, fault) for name, case in CASES.items() for fault in case.faults],
    key=lambda of: CASES[of[0]].plan_file.plan.mesh.ranks,  # a world serves several in turn
)
SIZES = sorted({case.plan_file.plan.mesh.ranks for case in CASES.values()})


@pytest.mark.parametrize("ranks", SIZES)
def test_updates_equal_those_of_one_process(ranks: int) -> None:
    files = {name: case.plan_file for name, case in CASES.items() if case.plan_file.plan.mesh.ranks == ranks}
    for file in files.values():
        check_recompute(file, read_skeleton(file))
    runs = run_in_turn(ranks, engine_run, {name: (file,) for name, file in files.items()})
    for name, own in runs.items():
        assert_equal_to(reference_run(files[name]), own, name)


@pytest.mark.parametrize(("name", "fault"), FAULTS, ids=[f"{name}: {fault.__name__}" for name, fault in FAULTS])
def test_a_fault_shows_in_the_updates(name: str, fault: Callable[[], None]) -> None:
    file = CASES[name].plan_file
    own = run_again(file.plan.mesh.ranks, engine_run, file, None, fault)
    assert worst_update_error(own, reference_run(file)) > TOLERANCE


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (
            plan_file(FAMILIES["qwen3_moe"], plan((layers(),)), mlp_tiles=2),
            "has experts in every layer, which run in one piece; plan without --mlp-tiles",
        ),
        (
            plan_file(LLAMA, plan((layers(1),), (layers(1),), pp=2, schedule="zb-h1"), mlp_tiles=2),
            "zb-h1 does not run with mlp_tiles",
        ),
        (
            plan_file(
                {"model_type": "opt", "vocab_size": 100, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2}
                | {"num_attention_heads": 4, "max_position_embeddings": 64, "word_embed_proj_dim": 32},
                plan((selective(),)),
                recompute_modules="mlp",
            ),
            "OPTDecoderLayer has no module of its own for 'mlp' to run again",
        ),
    ],
)
def test_what_cannot_run_again_is_refused_in_one_line(file: PlanFile, words: str) -> None:
    with pytest.raises(SpecError, match=words) as refused:
        check_recompute(file, read_skeleton(file))
    assert "\n" not in str(refused.value)


def test_what_the_planner_chooses_by_itself_trains() -> None:
    """Two devices with too little memory for all activations, so that modules run again."""
    config = {**FAMILIES["llama"], "hidden_size": 64, "intermediate_size": 256, "max_position_embeddings": 1024}
    model = model_from_config(config, name="tiny", source="config.json")
    cluster = host(2)
    device = cluster.node.device.model_copy(update={"memory_bytes": 18e6, "context_bytes": 0.0})
    small = cluster.model_copy(update={"groups": (cluster.groups[0].model_copy(update={"device": device}),)})
    training = TrainingSpec(seq_len=1024, global_batch=8, precision=Precision(compute="fp32"))
    found = search(model, small, training, may_choose=OpenChoices(recompute_modules=True))
    assert found.training is not None, "the planner finds room without"
    assert found.training.recompute_modules
    file = PlanFile(
        model_name="tiny", model_config_json=config, cluster=small, training=found.training, plan=found.plan
    )
    check_recompute(file, read_skeleton(file))
    own = run_again(2, engine_run, file)
    assert worst_update_error(own, reference_run(file)) <= TOLERANCE
