"""Every family that is promised: planned from its config alone, trained on two ranks, and equal to one process.

Families share one process group, as a new one for each would take longer than the training.
"""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import Shard

from shardwright.base import SpecError
from shardwright.catalog.huggingface import model_from_config
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.context import check_context
from shardwright.executor.experts import check_experts
from shardwright.executor.model import (
    check_tensor_parallel,
    lacks_fused_attention,
    layer_division,
    read_skeleton,
    unfuse,
)
from shardwright.executor.model.tensor_parallel import placements_of
from shardwright.executor.options import RunOptions
from shardwright.executor.passes.split_backward import check_split_backward
from shardwright.executor.training.run_folder import RunFolder
from shardwright.executor.training.trainer import Trainer
from shardwright.planner import search
from shardwright.specs.plan import Plan
from shardwright.specs.training import Precision, TrainingSpec
from tests.executor.runs import VOCABULARY, text_file
from tests.parity import sabotage
from tests.parity.cases import GLOBAL_BATCH, SEQ_LEN, host, layers, plan, plan_file
from tests.parity.families import FAMILIES, HYBRIDS, OTHERS
from tests.parity.updates import engine_run, reference_run, worst_update_error
from tests.parity.worlds import run_again, run_in_turn

TOLERANCE = 1e-4
PLANS: dict[str, Plan] = {
    "dp_shard 2": plan((layers(zero=3),), dp_shard=2),
    "pp 2": plan((layers(1),), (layers(1),), pp=2),
    "tp 2": plan((layers(),), tp=2),
    "cp 2": plan((layers(),), cp=2),
    "ep 2": plan((layers(zero=2),), dp_shard=2, ep=2),
}
STEPS = 2


@pytest.mark.parametrize("family", FAMILIES)
def test_updates_equal_those_of_one_process(family: str) -> None:
    files = {name: plan_file(FAMILIES[family], divided) for name, divided in PLANS.items()}
    skeleton = read_skeleton(files["tp 2"])
    check_tensor_parallel(files["tp 2"], skeleton)
    if lacks_fused_attention(skeleton.config):
        del files["cp 2"]
    else:
        check_context(files["cp 2"], skeleton)
    if "num_experts_per_tok" in FAMILIES[family]:
        check_experts(files["ep 2"], skeleton)
    else:
        del files["ep 2"]
    runs = run_in_turn(2, engine_run, {name: (file,) for name, file in files.items()})
    reference = reference_run(files["tp 2"])
    for name, found in runs.items():
        assert worst_update_error(found, reference) <= TOLERANCE, name
        assert found[0].losses == pytest.approx(reference.losses, rel=1e-5)


def test_updates_of_further_families_equal_those_of_one_process() -> None:
    files = {family: plan_file(config, PLANS["tp 2"]) for family, config in OTHERS.items()}
    for file in files.values():
        check_tensor_parallel(file, read_skeleton(file))
    runs = run_in_turn(2, engine_run, {family: (file,) for family, file in files.items()})
    for family, found in runs.items():
        assert worst_update_error(found, reference_run(files[family])) <= TOLERANCE, family


def test_hybrids_with_recurrent_layers_run_with_data_and_pipeline_ranks_and_spread_experts() -> None:
    names = {"bamba": "dp_shard 2", "granitemoehybrid": "ep 2", "minimax": "pp 2"}
    files = {family: plan_file(HYBRIDS[family], PLANS[name]) for family, name in names.items()}
    for pattern, name in (("ME", "pp 2"), ("*-", "dp_shard 2")):
        config = HYBRIDS["nemotron_h"] | {"hybrid_override_pattern": pattern}
        files[f"nemotron_h {pattern}"] = plan_file(config, PLANS[name])
    check_experts(files["granitemoehybrid"], read_skeleton(files["granitemoehybrid"]))
    for family, found in run_in_turn(2, engine_run, {family: (file,) for family, file in files.items()}).items():
        assert worst_update_error(found, reference_run(files[family])) <= TOLERANCE, family


RECURRENT = {"qwen3_next": OTHERS["qwen3_next"]} | HYBRIDS
SHARED: dict[str, Plan] = {
    "cp 2": PLANS["cp 2"],
    "cp 2 in a ring, full recompute": plan((layers(recompute="full"),), cp=2, context_parallel="ring"),
    "cp 2 by heads": plan((layers(),), cp=2, context_parallel="ulysses"),
}


@pytest.mark.parametrize("name", SHARED)
def test_recurrent_layers_run_over_context_ranks(name: str) -> None:
    files = {family: plan_file(config, SHARED[name]) for family, config in RECURRENT.items()}
    for file in files.values():
        check_context(file, read_skeleton(file))
    for family, found in run_in_turn(2, engine_run, {family: (file,) for family, file in files.items()}).items():
        assert worst_update_error(found, reference_run(files[family])) <= TOLERANCE, family


def test_linear_attention_runs_over_tensor_and_context_ranks_together() -> None:
    file = plan_file(OTHERS["qwen3_next"], plan((layers(),), tp=2, cp=2))
    (found,) = run_in_turn(4, engine_run, {"both": (file,)}).values()
    assert worst_update_error(found, reference_run(file)) <= TOLERANCE


@pytest.mark.parametrize("family", ["qwen3_next", "bamba"])
def test_a_state_that_no_rank_passes_on_shows(family: str) -> None:
    file = plan_file(RECURRENT[family], SHARED["cp 2"])
    found = run_again(2, engine_run, file, None, sabotage.pass_no_states_on)
    assert worst_update_error(found, reference_run(file)) > 100 * TOLERANCE


def test_experts_around_a_shortcut_run_with_data_context_and_pipeline_ranks_and_an_identity_on_every_rank_shows() -> (
    None
):
    config = OTHERS["longcat_flash"]
    files = {name: plan_file(config, PLANS[name]) for name in ("dp_shard 2", "pp 2", "cp 2")}
    check_context(files["cp 2"], read_skeleton(files["cp 2"]))
    reference = reference_run(files["pp 2"])
    for name, found in run_in_turn(2, engine_run, {name: (file,) for name, file in files.items()}).items():
        assert worst_update_error(found, reference) <= TOLERANCE, name
    divided = plan_file(config, PLANS["tp 2"])
    found = run_again(2, engine_run, divided, None, sabotage.return_identities_on_every_rank)
    assert worst_update_error(found, reference) > 100 * TOLERANCE
    with pytest.raises(SpecError, match="LongcatFlashExperts is not given tokens with their experts; plan with ep 1"):
        check_experts(plan_file(config, PLANS["ep 2"]), read_skeleton(divided))


def test_experts_without_gates_are_spread_and_shared() -> None:
    plans = {
        "over dp and tp": plan((layers(zero=1),), dp_shard=2, tp=2, ep=4),
        "that share": plan((layers(zero=1),), dp_shard=2, tp=2, ep=2, etp=2),
    }
    files = {name: plan_file(HYBRIDS["nemotron_h"], of_plan) for name, of_plan in plans.items()}
    reference = reference_run(files["that share"])
    for file in files.values():
        check_experts(file, read_skeleton(file))
    for name, found in run_in_turn(4, engine_run, {name: (file,) for name, file in files.items()}).items():
        assert worst_update_error(found, reference) <= TOLERANCE, name


def test_mamba_is_divided_over_tp_by_heads_and_groups() -> None:
    file = plan_file(HYBRIDS["nemotron_h"], PLANS["tp 2"])
    skeleton = read_skeleton(file)
    layer = copy.deepcopy(skeleton.layer(0))
    unfuse(layer, skeleton.config)
    division = layer_division(skeleton.model, layer, skeleton.structure.layers, skeleton.name)
    assert division.regions["mixer"].shares_input
    placements = placements_of(layer, division)
    assert all(isinstance(placement, Shard) for placement in placements.values())
    files = {family: plan_file(HYBRIDS[family], PLANS["tp 2"]) for family in ("bamba", "nemotron_h")}
    for one in files.values():
        check_tensor_parallel(one, read_skeleton(one))
    for family, found in run_in_turn(2, engine_run, {family: (one,) for family, one in files.items()}).items():
        assert worst_update_error(found, reference_run(files[family])) <= TOLERANCE, family
    one_group = plan_file(HYBRIDS["bamba"] | {"mamba_n_groups": 1}, PLANS["tp 2"])
    with pytest.raises(SpecError, match="has groups of Mamba-2 1, which tp 2 does not divide"):
        check_tensor_parallel(one_group, read_skeleton(one_group))


@pytest.mark.parametrize("family", ["gemma3_text", "phi3", "qwen3_moe"])
def test_a_lost_reduction_shows(family: str) -> None:
    """The negative control of this file: without one sum over tp the tolerance is exceeded."""
    file = plan_file(FAMILIES[family], PLANS["tp 2"])
    found = run_again(2, engine_run, file, None, sabotage.forget_norm_reduction)
    assert worst_update_error(found, reference_run(file)) > 100 * TOLERANCE


def test_linear_attention_is_divided_over_tp_and_a_lost_reduction_of_its_norm_shows() -> None:
    file = plan_file(OTHERS["qwen3_next"], PLANS["tp 2"])
    skeleton = read_skeleton(file)
    layer = copy.deepcopy(skeleton.layer(0))
    unfuse(layer, skeleton.config)
    division = layer_division(skeleton.model, layer, skeleton.structure.layers, skeleton.name)
    assert division.regions["linear_attn"].shares_input
    placements = placements_of(layer, division)
    own = {name for name, _ in layer.get_submodule("linear_attn").named_parameters(prefix="linear_attn")}
    assert {name for name in own if isinstance(placements[name], Shard)} == own - {"linear_attn.norm.weight"}
    found = run_again(2, engine_run, file, None, sabotage.forget_head_norm_reduction)
    assert worst_update_error(found, reference_run(file)) > 100 * TOLERANCE


def _planned(family: str) -> PlanFile:
    """What the planner makes of the config alone, for two CPU ranks."""
    config = {**FAMILIES[family], "vocab_size": VOCABULARY}
    model = model_from_config(config, name=family, source="config.json")
    training = TrainingSpec(
        seq_len=SEQ_LEN, global_batch=GLOBAL_BATCH, precision=Precision(compute="fp32"), optimizer="adamw"
    )
    cluster = host(2)
    found = search(model, cluster, training)
    return PlanFile(
        model_name=model.name, model_config_json=model.config, cluster=cluster, training=training, plan=found.plan
    )


def _losses(file: PlanFile, options: RunOptions) -> tuple[float, ...]:
    options.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(file, options, RunFolder(options.out), device=torch.device("cpu"), progress=lambda _: None)
    measurement = trainer.run()
    dist.barrier()
    return tuple(record.loss for record in measurement.steps)


def test_a_config_alone_is_planned_and_trained_on_two_ranks(tmp_path: Path) -> None:
    """The losses are those of one rank."""
    data = text_file(tmp_path)
    files = {family: _planned(family) for family in FAMILIES}
    for file in files.values():
        assert file.plan.mesh.ranks == 2
        skeleton = read_skeleton(file)
        check_tensor_parallel(file, skeleton)
        check_split_backward(file.plan, tied=skeleton.tied)
    whole = plan((layers(),), microbatches=1)
    alone = {family: file.model_copy(update={"plan": whole}) for family, file in files.items()}

    def options(family: str, ranks: int) -> RunOptions:
        folder = tmp_path / f"{family}-{ranks}"
        return RunOptions(out=folder, data=(data,), steps=STEPS, checkpoint_every=None, timing_warmup_steps=0)

    divided = run_in_turn(2, _losses, {family: (file, options(family, 2)) for family, file in files.items()})
    expected = run_in_turn(1, _losses, {family: (file, options(family, 1)) for family, file in alone.items()})
    for family in FAMILIES:
        assert len(expected[family][0]) == STEPS
        assert divided[family][0] == pytest.approx(expected[family][0], rel=1e-4), family
