"""Good files of other frameworks, and the plan that is exported to them."""

from pathlib import Path

from .kinds import Input

_JOB = (
    "--cluster",
    "h100-sxm:8",
    "--model",
    "llama-3.2-1b",
    "--seq-len",
    "2048",
    "--global-batch",
    "16",
    "--micro-batch",
    "1",
)
_SCRIPT = """#!/bin/bash
GPUS=8
ARGS=(
  --num-layers 16 --hidden-size 2048 --num-attention-heads 32 --group-query-attention --num-query-groups 8 # sizes
  --ffn-hidden-size 8192 --vocab-size 128256 --normalization RMSNorm --position-embedding-type rope --swiglu --disable-bias-linear
  --max-position-embeddings 2048
)
torchrun --nproc-per-node $GPUS --nnodes ${NODES:-1} pretrain_gpt.py "${ARGS[@]}" --seq-length 2048 --micro-batch-size 1 \\
  --global-batch-size 16 --bf16 --tensor-model-parallel-size 2 --pipeline-model-parallel-size 2 --sequence-parallel \\
  --pipeline-model-parallel-layout 'Et*9|t*7L' --use-distributed-optimizer --recompute-granularity selective --lr 1e-4
"""
_TOML = """[model]
name = "llama3"
flavor = "8B"

[training]
local_batch_size = 4
seq_len = 2048

[parallelism]
data_parallel_shard_degree = -1
tensor_parallel_degree = 2
pipeline_parallel_degree = 2
pipeline_parallel_schedule = "1F1B"

[activation_checkpoint]
mode = "selective"
selective_ac_option = "2"
"""
_DEEPSPEED = """{"train_batch_size": 16, "train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": true}, "optimizer": {"type": "AdamW"},
 "zero_optimization": {"stage": 3, "overlap_comm": true, "offload_optimizer": {"device": "cpu", "ratio": 0.5}}}
"""
_ACCELERATE = """distributed_type: FSDP
mixed_precision: bf16
num_processes: 8
fsdp_config:
  fsdp_version: 2
  fsdp_reshard_after_forward: true
parallelism_config:
  parallelism_config_dp_shard_size: 4
  parallelism_config_tp_size: 2
"""
_BRIDGE = """model:
  tensor_model_parallel_size: 2
  pipeline_model_parallel_size: 2
  seq_length: 2048
train:
  micro_batch_size: 1
  global_batch_size: 16
ddp:
  use_distributed_optimizer: true
mixed_precision: bf16_mixed
"""
_FILES = {
    "run.sh": _SCRIPT,
    "titan.toml": _TOML,
    "deepspeed.json": _DEEPSPEED,
    "accelerate.yaml": _ACCELERATE,
    "bridge.yaml": _BRIDGE,
}
_ALONE = ("--cluster", "h100-sxm:8")
INPUTS = (
    Input("run.sh", (("import", "{}", *_ALONE), ("import", "{}", *_ALONE, "--json"))),
    Input("titan.toml", (("import", "{}", *_ALONE), ("import", "{}", *_ALONE, "--json"))),
    Input("deepspeed.json", (("import", "{}", *_JOB[:6]), ("import", "{}", *_JOB[:6], "--json"))),
    Input("accelerate.yaml", (("import", "{}", *_JOB), ("import", "{}", *_JOB, "--json"))),
    Input("bridge.yaml", (("import", "{}", *_JOB[:4]), ("import", "{}", *_JOB[:4], "--json"))),
    Input(
        "offload.json",
        tuple(
            ("export", "{}", "--to", target, "--closest", "--json")
            for target in ("megatron", "torchtitan", "deepspeed", "accelerate", "nemo", "slurm", "k8s")
        ),
    ),
)  # fmt: skip


def write_inputs(folder: Path) -> None:
    """Write the good files into `folder`; the plan is another room's."""
    for name, text in _FILES.items():
        (folder / name).write_text(text)
