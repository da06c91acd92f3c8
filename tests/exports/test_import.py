"""Setups as people publish them are understood, or refused by the name of the key."""

from pathlib import Path
from typing import Any

import pytest

from shardwright.base import SpecError
from shardwright.catalog import load_cluster
from shardwright.catalog.huggingface import load_model
from shardwright.exports import Imported, Job, import_plan, target_of
from shardwright.specs import LayerRun

from . import setups


def read(text: str, name: str = "run.sh", *, model: str | None = None, **given: Any) -> Imported:
    path = Path(name)
    job = Job(load_model(model) if model else None, load_cluster("h100-sxm:16"), given)
    return import_plan(path, text, target_of(text, path), job)


def layers(imported: Imported) -> list[tuple[LayerRun, ...]]:
    return [stage.layers for stage in imported.plan_file.plan.stages]


class TestTenSetups:
    """What each says, as one reads it."""

    def test_a_script_for_a_dense_model(self) -> None:
        found = read(setups.MEGATRON_DENSE)
        plan, training = found.plan_file.plan, found.plan_file.training
        assert str(plan.mesh) == "pp2 x dp_shard4 x tp2"
        assert (plan.micro_batch, plan.microbatches, training.seq_len, training.stack) == (
            1,
            16,
            4096,
            "megatron-core-0.15",
        )
        assert layers(found) == [(LayerRun(count=16, zero_stage=1),)] * 2
        assert found.plan_file.model().parameter_count == load_model("llama-3.1-8b").parameter_count
        assert found.ignored[:3] == ("--train-iters", "--weight-decay", "--lr")
        assert [note.split()[0] for note in found.lacks] == [
            "--overlap-grad-reduce",
            "--overlap-param-gather",
            "--tp-comm-overlap",
            "--cross-entropy-loss-fusion",
            "--attention-dropout",
            "--hidden-dropout",
        ]

    def test_a_line_for_a_mixture_of_experts(self) -> None:
        found = read(setups.MEGATRON_EXPERTS)
        plan = found.plan_file.plan
        assert (plan.mesh.pp, plan.mesh.dp_shard, plan.mesh.ep, plan.mesh.etp) == (2, 8, 8, 0)
        assert (plan.schedule, plan.stages_per_rank, plan.expert_dispatch) == ("interleaved-1f1b", 2, "all-to-all")
        assert layers(found)[0] == (LayerRun(count=8, zero_stage=1, recompute="selective"),)
        assert found.plan_file.training.recompute_modules == ("core_attn", "moe_act")
        assert found.plan_file.training.stack == "megatron-core"  # without --moe-router-fusion
        assert found.plan_file.model().parameter_count == load_model("mixtral-8x7b").parameter_count

    def test_a_line_for_gpt_3(self) -> None:
        found = read(setups.MEGATRON_GPT3)
        assert str(found.plan_file.plan.mesh) == "dp_replicate2 x tp8"
        assert layers(found) == [(LayerRun(count=20, recompute="full"), LayerRun(count=20))]
        assert found.plan_file.training.precision.compute == "fp16"
        assert not found.plan_file.plan.sequence_parallel
        assert found.plan_file.model().parameter_count == load_model("gpt3-13b").parameter_count

    def test_a_zero_3_json_with_auto(self) -> None:
        found = read(setups.DEEPSPEED_ZERO3, "ds.json", model="llama-3.1-8b", seq_len=4096)
        plan = found.plan_file.plan
        assert (str(plan.mesh), plan.zero_stage, plan.micro_batch, plan.global_batch) == ("dp_shard16", 3, 2, 64)

    def test_a_json_with_the_optimizer_on_the_host(self) -> None:
        found = read(setups.DEEPSPEED_OFFLOAD, "ds.json", model="llama-3.1-8b", seq_len=2048)
        plan = found.plan_file.plan
        assert (plan.zero_stage, plan.offload.optimizer_fraction, plan.micro_batch, plan.microbatches) == (2, 1, 1, 4)
        assert layers(found) == [(LayerRun(count=32, zero_stage=2, recompute="full"),)]
        assert found.plan_file.training.precision.compute == "fp16"

    def test_a_toml_with_fsdp(self) -> None:
        found = read(setups.TORCHTITAN_FSDP, "llama3_8b.toml")
        plan, training = found.plan_file.plan, found.plan_file.training
        assert (str(plan.mesh), plan.zero_stage, training.global_batch) == ("dp_shard16", 3, 16)
        assert layers(found) == [(LayerRun(count=32, zero_stage=3, recompute="selective"),)]
        assert (training.stack, training.precision.linear) == ("torchtitan-compiled-loss", None)
        assert found.plan_file.model_name == "llama-3.1-8b"

    def test_a_toml_with_three_axes(self) -> None:
        """34 layers with the ends' weights over four stages: 9, 9, 8 and 8, without the embedding and the head (0.2.2)."""
        found = read(setups.TORCHTITAN_3D, "llama3_8b.toml")
        plan, training = found.plan_file.plan, found.plan_file.training
        assert (str(plan.mesh), plan.schedule) == ("pp2 x dp_shard4 x tp2", "interleaved-1f1b")
        assert [stage.layer_count for stage in plan.stages] == [8, 9, 8, 7]
        assert (plan.zero_stage, plan.micro_batch, plan.microbatches) == (1, 1, 8)
        assert (training.stack, training.precision.linear, training.precision.gather) == (
            "torchtitan-eager",
            "fp8",
            "fp8",
        )

    def test_a_yaml_with_hybrid_sharding(self) -> None:
        found = read(
            setups.ACCELERATE_FSDP1, "fsdp.yaml", model="llama-3.1-8b", seq_len=4096, global_batch=64, micro_batch=1
        )
        plan = found.plan_file.plan
        assert (str(plan.mesh), plan.zero_stage, plan.microbatches) == ("dp_replicate2 x dp_shard8", 3, 4)
        assert found.plan_file.training.stack == "hf-trainer"

    def test_a_yaml_with_fsdp2_and_axes(self) -> None:
        found = read(
            setups.ACCELERATE_FSDP2, "fsdp.yaml", model="llama-3.1-8b", seq_len=4096, global_batch=64, micro_batch=1
        )
        plan = found.plan_file.plan
        assert (str(plan.mesh), plan.zero_stage, plan.context_parallel) == ("dp_shard4 x cp2 x tp2", 3, "ring")
        assert layers(found) == [(LayerRun(count=32, zero_stage=3, recompute="full"),)]
        assert (found.plan_file.training.stack, plan.sequence_parallel) == ("accelerate", False)

    def test_a_yaml_over_a_recipe_of_megatron_bridge(self) -> None:
        found = read(setups.NEMO, "overrides.yaml", model="llama-3.1-8b")
        plan, training = found.plan_file.plan, found.plan_file.training
        assert (str(plan.mesh), plan.stages_per_rank, plan.context_parallel) == (
            "pp2 x dp_shard2 x cp2 x tp2",
            4,
            "ring",
        )
        assert (training.precision.linear, training.precision.gather, training.precision.gradients) == (
            "fp8",
            "fp8",
            "fp32",
        )


class TestRefusedByName:
    """A key that is not understood or not modelled: one line with its name, and the nearest spelling or what to do."""

    @pytest.mark.parametrize(
        ("added", "words"),
        [
            ("--tensor-model-paralel-size 4", "--tensor-model-paralel-size is not known. Did you mean '--tensor-model-parallel-size'?"),
            ("--use-megatron-fsdp", "--use-megatron-fsdp shards weights"),
            ("--rampup-batch-size 16 8 300000", "--rampup-batch-size makes steps of several sizes"),
            ("--fp8-format hybrid --fp8-recipe blockwise", "--fp8-recipe blockwise is not modelled"),
            ("--pipeline-model-parallel-size two", "--pipeline-model-parallel-size is 'two': give a whole number"),
            ("--recompute-granularity ful", "--recompute-granularity ful is not understood; understood: full, selective"),
            ("--recompute-granularity full --recompute-method uniform --recompute-num-layers 4", "--recompute-num-layers 4 checkpoints 4 layers as one"),
            ("--optimizer sgd", "--sgd-momentum is not 0"),
            ("--tensor-model-parallel-size $TP", "--tensor-model-parallel-size is '$TP': give a whole number"),
            ("--context-parallel-size 2 --cp-comm-type a2a+p2p", "--hierarchical-context-parallel-sizes"),
            ("--pipeline-model-parallel-layout Et*3|tL", "has 4 t and the job has 32 layers"),
            ("--cuda-graph-impl local", "--cuda-graph-scope full with cuda_graph_impl local is not modelled"),
            ("--bf16 --fp16", "exclude each other"),
            ("--tensor-model-parallel-size 3", "does not divide"),
            ("$EXTRA_ARGS", "$EXTRA_ARGS is used, and the file does not set it"),
            ("--squared-relu", "--squared-relu is another activation"),
        ],
    )  # fmt: skip
    def test_a_flag_of_megatron(self, added: str, words: str) -> None:
        with pytest.raises(SpecError) as refused:
            read(setups.MEGATRON_DENSE.replace("--log-interval 100", added))
        assert words in str(refused.value)
        assert "\n" not in str(refused.value)

    def test_the_dispatcher_that_megatron_takes_by_default(self) -> None:
        text = setups.MEGATRON_EXPERTS.replace("--moe-token-dispatcher-type alltoall", "")
        with pytest.raises(SpecError, match=r"--moe-token-dispatcher-type is allgather \(its default\)"):
            read(text)

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ('"stage": 3', '"stage": 4', "zero_optimization.stage is 4: give 0, 1, 2 or 3"),
            ('"stage": 3', '"stage": 3, "zero_hpz_partition_size": 8', "zero_optimization.zero_hpz_partition_size keeps a second copy"),
            ('"stage": 3', '"stage": 3, "offload_param": {"device": "cpu"}', "zero_optimization.offload_param.device cpu keeps parameters"),
            ('"overlap_comm"', '"overlap_com"', "zero_optimization.overlap_com is not known. Did you mean 'zero_optimization.overlap_comm'?"),
            ('"AdamW"', '"Lamb"', "optimizer.type Lamb is not understood"),
            ('"gradient_accumulation_steps": 2', '"gradient_accumulation_steps": 2.5', "gradient_accumulation_steps is 2.5"),
            ('"train_batch_size": "auto"', '"train_batch_size": 100', "train_batch_size 100 is not micro batch 2"),
        ],
    )  # fmt: skip
    def test_a_key_of_deepspeed(self, old: str, new: str, words: str) -> None:
        with pytest.raises(SpecError) as refused:
            read(setups.DEEPSPEED_ZERO3.replace(old, new), "ds.json", model="llama-3.1-8b", seq_len=4096)
        assert words in str(refused.value)

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("tensor_parallel_degree", "tensor_parallel_degre", "parallelism.tensor_parallel_degre is not known. Did you mean 'parallelism.tensor_parallel_degree'?"),
            ('"Interleaved1F1B"', '"InterleavedZeroBubble"', "parallelism.pipeline_parallel_schedule interleavedzerobubble is not understood"),
            ('mode = "full"', 'mode = "memory_budget"', "activation_checkpoint.mode memory_budget"),
            ("local_batch_size = 8", "local_batch_size = 8\nglobal_batch_size = 64", "training.global_batch_size 64 is several local batches"),
            ('"8B"', '"7B"', "names no model that is known here"),
            ('["quantize.linear.float8"]', '["quantize.linear.int4"]', "model.converters quantize.linear.int4 is not modelled"),
            ("seq_len = 8192", "seq_len = ", "is no valid TOML"),
        ],
    )  # fmt: skip
    def test_a_key_of_torchtitan(self, old: str, new: str, words: str) -> None:
        with pytest.raises(SpecError) as refused:
            read(setups.TORCHTITAN_3D.replace(old, new), "llama3_8b.toml")
        assert words in str(refused.value)

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("HYBRID_SHARD", "HYBRID_SHRAD", "fsdp_config.fsdp_sharding_strategy HYBRID_SHRAD is not understood"),
            ("distributed_type: FSDP", "distributed_type: DEEPSPEED", "import that file"),
            ("fsdp_offload_params", "fsdp_offload_parms", "Did you mean 'fsdp_config.fsdp_offload_params'?"),
            ("mixed_precision: bf16", "mixed_precision: fp8", "mixed_precision fp8 has a recipe in code"),
        ],
    )
    def test_a_key_of_accelerate(self, old: str, new: str, words: str) -> None:
        text = setups.ACCELERATE_FSDP1.replace(old, new)
        with pytest.raises(SpecError) as refused:
            read(text, "fsdp.yaml", model="llama-3.1-8b", seq_len=4096, global_batch=64, micro_batch=1)
        assert words in str(refused.value)

    def test_a_key_of_megatron_bridge(self) -> None:
        with pytest.raises(
            SpecError, match=r"model.tensor_parallel_size is not known. Did you mean 'model.tensor_model_parallel_size'"
        ):
            read(setups.NEMO.replace("tensor_model_", "tensor_"), "o.yaml", model="llama-3.1-8b")
        with pytest.raises(SpecError, match="mixed_precision bf16_with_fp8 is not understood"):
            read(setups.NEMO.replace("_delayed_scaling_mixed", ""), "o.yaml", model="llama-3.1-8b")

    def test_what_the_file_does_not_hold(self) -> None:
        with pytest.raises(SpecError, match="says nothing of seq_len; give --seq-len"):
            read(setups.DEEPSPEED_ZERO3, "ds.json", model="llama-3.1-8b")
        with pytest.raises(SpecError, match="does not say which model it trains; give --model"):
            read(setups.DEEPSPEED_ZERO3, "ds.json", seq_len=4096)
        with pytest.raises(SpecError, match="says seq_len 4096, not 8192; leave the option out"):
            read(setups.MEGATRON_DENSE, seq_len=8192)
        with pytest.raises(SpecError, match=r"is for a model of layers 32, and llama-3\.1-70b has 80"):
            read(setups.MEGATRON_DENSE, model="llama-3.1-70b")
        with pytest.raises(SpecError, match="names no model"):
            read("pretrain_gpt.py --micro-batch-size 1 --bf16")


def test_a_changed_flag_changes_the_plan() -> None:
    """The negative control of reading: another value of a flag is another plan."""
    plan = read(setups.MEGATRON_DENSE).plan_file.plan
    for old, new in (
        ("--micro-batch-size 1", "--micro-batch-size 2"),
        ("--pipeline-model-parallel-size 2", "--pipeline-model-parallel-size 4"),
        ("--use-distributed-optimizer", ""),
        ("--sequence-parallel", ""),
        ("--bf16", "--bf16 --recompute-activations"),
    ):
        assert read(setups.MEGATRON_DENSE.replace(old, new)).plan_file.plan != plan, old
