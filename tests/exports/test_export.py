"""An export says the same plan when it is read back, and a target refuses by name what it cannot say."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from shardwright.base import SpecError
from shardwright.benchmarks.framework_files import random_plan
from shardwright.catalog import load_cluster
from shardwright.catalog.huggingface import load_model
from shardwright.costmodel import PlanFile
from shardwright.exports import TARGETS, Job, choices_of, export_plan, express, import_plan
from shardwright.exports.choices import canonical
from shardwright.exports.frameworks import accelerate, deepspeed, megatron, nemo, torchtitan
from shardwright.exports.frameworks.megatron_model import model_keys
from shardwright.specs import Plan, TrainingSpec

PLANS = 100
MODULES = {
    "accelerate": accelerate,
    "deepspeed": deepspeed,
    "megatron": megatron,
    "nemo": nemo,
    "torchtitan": torchtitan,
}


def plan_file(stack: str = "shardwright", *, model: str = "llama-3.1-8b", batch: int = 64, **plan: Any) -> PlanFile:
    """A plan on 16 GPUs, with ZeRO-1 where nothing else is said."""
    read = load_model(model)
    layers = [{"count": read.layer_count, "zero_stage": 1}]
    whole = {
        "mesh": {"dp_shard": 16},
        "micro_batch": 1,
        "microbatches": batch // 16,
        "stages": [{"layers": layers}],
    } | plan
    precision = {"gradients": "bf16"} if stack in ("hf-deepspeed", "nemo") else {}
    return PlanFile(
        model_name=model,
        model_config_json=read.config,
        cluster=load_cluster("h100-sxm:16"),
        training=TrainingSpec.parse(
            {"seq_len": 4096, "global_batch": batch, "stack": stack, "precision": precision}, source="test"
        ),
        plan=Plan.parse(whole, source="test"),
    )


def job_beside(file: PlanFile, target: str) -> Job:
    """What the target's file does not hold, of a plan file."""
    choices = choices_of(file)
    outside = {name: value for name, value in choices.items() if name in TARGETS[target].outside}
    return Job(file.model(), file.cluster, outside)


class TestRoundTrips:
    """Export, then import: the same plan and training."""

    @pytest.mark.parametrize("target", TARGETS)
    def test_of_random_plans(self, target: str) -> None:
        for seed in range(PLANS):
            file = random_plan(target, seed)
            _, back = express(file, TARGETS[target])
            assert back.plan == canonical(file.plan), seed
            assert choices_of(back) == choices_of(file.model_copy(update={"plan": canonical(file.plan)})), seed

    @pytest.mark.parametrize("target", TARGETS)
    def test_by_the_public_functions(self, target: str) -> None:
        file = random_plan(target, 1)
        done = export_plan(file, TARGETS[target])
        read = import_plan(Path(f"setup{TARGETS[target].suffix}"), done.text, TARGETS[target], job_beside(file, target))
        assert (done.lost, done.moved_from, read.lacks) == ((), None, ())
        assert read.plan_file.plan == canonical(file.plan)
        assert read.plan_file.estimated().step_seconds == done.before.step_seconds

    @pytest.mark.parametrize("target", TARGETS)
    def test_random_plans_are_different(self, target: str) -> None:
        assert len({str(random_plan(target, seed).plan) for seed in range(20)}) > 15


def _silenced(rows: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    """The rows, of which one writes nothing; it still reads."""
    row = rows[index]

    class Silent:
        def write(self, choices: Mapping[str, Any]) -> dict[str, Any]:
            return {}

        read = row.read

    return (*rows[:index], Silent(), *rows[index + 1 :])


@pytest.mark.parametrize("target", TARGETS)
def test_a_row_that_writes_nothing_is_noticed(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the round trips: random plans notice each row that they use."""
    module = MODULES[target]
    rows = module.ROWS
    used = [index for index, row in enumerate(rows) if _is_used(row, target)]
    assert len(used) > len(rows) / 2
    for index in used:
        with monkeypatch.context() as patched:
            patched.setattr(module, "ROWS", _silenced(rows, index))
            assert any(_differs(target, seed) for seed in range(PLANS)), rows[index]


def _is_used(row: Any, target: str) -> bool:
    """Whether any random plan writes something with a row that an absent key does not say too."""
    return any(row.write(choices) for choices in _drawn_choices(target))


def _drawn_choices(target: str) -> Iterator[Mapping[str, Any]]:
    for seed in range(PLANS):
        yield choices_of(random_plan(target, seed)) | {"per_machine": 8, "cp_load_balancer": "headtail"}


def _differs(target: str, seed: int) -> bool:
    file = random_plan(target, seed)
    try:
        _, back = express(file, TARGETS[target])
    except SpecError:
        return True
    return choices_of(back) != choices_of(file.model_copy(update={"plan": canonical(file.plan)}))


class TestRefusals:
    """What a target cannot say is refused in one line by name, or approximated where that is asked for."""

    @pytest.mark.parametrize(
        ("target", "plan", "words"),
        [
            ("megatron", {"mesh": {"pp": 2, "dp_shard": 8}, "schedule": "zb-h1", "microbatches": 8}, "schedule zb-h1"),
            ("torchtitan", {"mesh": {"dp_shard": 4, "cp": 4}, "context_parallel": "ulysses", "microbatches": 16}, "context_parallel ulysses"),
            ("deepspeed", {"mesh": {"pp": 2, "dp_shard": 8}, "microbatches": 8}, "pp 2"),
            ("accelerate", {"offload": {"optimizer_fraction": 0.5}}, "offload_optimizer 0.5"),
            ("nemo", {"mesh": {"pp": 2, "dp_shard": 8}, "schedule": "zb-h1", "microbatches": 8}, "schedule zb-h1"),
        ],
    )  # fmt: skip
    def test_by_name_and_then_the_closest(self, target: str, plan: dict[str, Any], words: str) -> None:
        mesh = plan.get("mesh", {"dp_shard": 16})
        pp, layers = mesh.get("pp", 1), 32
        zero = {"megatron": 1, "nemo": 1}.get(target, 2 if pp == 1 else 1)
        stages = [{"layers": [{"count": layers // pp, "zero_stage": zero}]} for _ in range(pp)]
        file = plan_file(**{**plan, "stages": stages})
        with pytest.raises(SpecError, match=words) as refused:
            export_plan(file, TARGETS[target])
        assert "--closest writes" in str(refused.value)
        assert "\n" not in str(refused.value)
        done = export_plan(file, TARGETS[target], closest=True)
        assert words in [wanted for wanted, _ in done.lost]
        assert done.plan_file.plan.mesh.ranks == file.plan.mesh.ranks
        assert done.plan_file.estimated().step_seconds != done.before.step_seconds
        again, _ = express(done.plan_file, TARGETS[target])
        assert again == done.text

    def test_zero_3_in_megatron(self) -> None:
        layers = [{"count": 32, "zero_stage": 3}]
        with pytest.raises(SpecError, match=r"zero_stage 3; --closest writes zero_stage 1 instead"):
            export_plan(plan_file(stages=[{"layers": layers}]), TARGETS["megatron"])

    def test_recompute_of_other_layers_in_megatron(self) -> None:
        """Blocks begin at the first layer of a stage; the nearest recomputes as many layers."""
        layers = [{"count": 8, "zero_stage": 1}, {"count": 24, "zero_stage": 1, "recompute": "full"}]
        done = export_plan(plan_file(stages=[{"layers": layers}]), TARGETS["megatron"], closest=True)
        assert done.lost == (("recompute none in 8 layers, full in 24", "recompute full in 24 layers, none in 8"),)
        counts = [(run.recompute, run.count) for run in done.plan_file.plan.stages[0].layers]
        assert counts == [("full", 24), ("none", 8)]

    def test_a_batch_that_does_not_divide_without_the_axes(self) -> None:
        file = plan_file(batch=8, mesh={"dp_shard": 4, "tp": 4}, microbatches=2, sequence_parallel=False)
        export_plan(file, TARGETS["deepspeed"])
        stages = [{"layers": [{"count": 16, "zero_stage": 1}]}] * 2
        file = plan_file(batch=8, mesh={"pp": 2, "dp_shard": 8}, microbatches=1, stages=stages)
        with pytest.raises(
            SpecError, match="without pp there are 16 data-parallel ranks, which do not divide the global batch of 8"
        ):
            export_plan(file, TARGETS["deepspeed"])

    def test_the_stack_that_it_was_planned_for_is_told(self) -> None:
        done = export_plan(plan_file(), TARGETS["megatron"])
        assert (done.moved_from, done.plan_file.training.stack) == ("shardwright", "megatron-core-0.15")

    def test_a_schedule_that_needs_another_stack(self) -> None:
        """torch's ZBVZeroBubble refuses compiled modules."""
        stages = [{"layers": [{"count": 8, "zero_stage": 1}]}] * 4
        mesh = {"pp": 2, "dp_shard": 8}
        file = plan_file("torchtitan", mesh=mesh, microbatches=8, stages=stages, schedule="zb-v")
        done = export_plan(file, TARGETS["torchtitan"])
        assert (done.moved_from, done.plan_file.training.stack) == ("torchtitan", "torchtitan-eager")
        assert "compile" not in done.text

    def test_what_stands_in_the_training_script_is_told(self) -> None:
        layers = [{"count": 32, "zero_stage": 3}]
        done = export_plan(plan_file("accelerate", stages=[{"layers": layers}]), TARGETS["accelerate"])
        assert done.outside == ("global_batch 64", "micro_batch 1", "seq_len 4096")

    def test_training_that_a_target_cannot_say(self) -> None:
        file = plan_file()
        file = file.model_copy(update={"training": file.training.model_copy(update={"loss_chunks": 8})})
        with pytest.raises(SpecError, match="cannot express loss_chunks 8"):
            export_plan(file, TARGETS["megatron"])


def test_a_late_update_is_named_and_dropped_for_the_closest() -> None:
    given = plan_file(offload={"optimizer_fraction": 1, "delayed_update": True})
    with pytest.raises(SpecError, match="cannot express delayed_update True; --closest writes delayed_update False"):
        export_plan(given, TARGETS["megatron"])
    assert not export_plan(given, TARGETS["megatron"], closest=True).plan_file.plan.offload.delayed_update


def test_a_megatron_model_comes_back_from_its_arguments() -> None:
    """Presets whose arguments Megatron-LM has: dense, grouped, with experts, latent attention, GPT-3."""
    for name in ("llama-3.1-8b", "qwen3-30b-a3b", "mixtral-8x7b", "deepseek-v3", "gpt3-13b", "qwen2.5-7b"):
        model = load_model(name)
        keys = model_keys(model)
        assert keys is not None, name
        assert keys["num_layers"] == model.layer_count


def test_a_model_beyond_the_arguments_is_left_to_the_script() -> None:
    assert model_keys(load_model("gemma-2-9b")) is None
    assert model_keys(load_model("gpt-oss-20b")) is None


def test_every_target_names_a_release_and_stacks() -> None:
    for name, target in TARGETS.items():
        fields: dict[str, Any] = {field.name: getattr(target, field.name) for field in dataclasses.fields(target)}
        assert fields["name"] == name
        assert any(letter.isdigit() for letter in fields["release"])
        assert fields["stacks"]


def test_an_approximate_plan_is_refused() -> None:
    given = plan_file(mesh={"dp_replicate": 2, "dp_shard": 8}, sync={"bits": 8})
    for target in TARGETS.values():
        with pytest.raises(SpecError, match="reduces gradients exactly, and the plan's replicas agree approximately"):
            export_plan(given, target, closest=True)


def test_means_on_the_way_to_experts_are_refused() -> None:
    given = plan_file()
    given = given.model_copy(update={"training": given.training.model_copy(update={"tokens_per_centroid": 5})})
    for target in TARGETS.values():
        with pytest.raises(SpecError, match="sends every token to its experts, and the plan sends means of 5"):
            export_plan(given, target, closest=True)


def test_stages_that_are_left_out_are_refused() -> None:
    given = plan_file(
        mesh={"pp": 4, "dp_shard": 4},
        microbatches=16,
        schedule="skippipe-25",
        stages=[{"layers": [{"count": 8, "zero_stage": 1}]}] * 4,
    )
    for target in TARGETS.values():
        with pytest.raises(SpecError, match="lets every microbatch pass every stage, and the plan's leave some out"):
            export_plan(given, target, closest=True)
