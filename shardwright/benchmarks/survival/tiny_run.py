"""A small run of two or four ranks as a user starts it, for what disturbs it."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from shardwright.catalog import load_cluster
from shardwright.costmodel import PlanFile, write_plan_file
from shardwright.specs import LayerRun, Mesh, Plan, Precision, Stage, TrainingSpec

Split = Literal["fsdp", "pp", "tp x fsdp"]
MODEL: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
SEQ_LEN, GLOBAL_BATCH = 16, 8


def plan_file(split: Split) -> PlanFile:
    """Return the plan of a model of 40 thousand parameters on two ranks (fsdp, pp) or four."""
    whole = Stage(layers=(LayerRun(count=2, zero_stage=3),))
    half = Stage(layers=(LayerRun(count=1),))
    mesh, stages = {
        "fsdp": (Mesh(dp_shard=2), (whole,)),
        "pp": (Mesh(pp=2), (half, half)),
        "tp x fsdp": (Mesh(dp_shard=2, tp=2), (whole,)),
    }[split]
    plan = Plan(mesh=mesh, micro_batch=2, microbatches=GLOBAL_BATCH // 2 // mesh.dp, stages=stages)
    return PlanFile(
        model_name="llama-tiny",
        model_config_json=MODEL,
        cluster=load_cluster("h100-sxm:4"),  # only a plan's choices are of interest
        training=TrainingSpec(
            seq_len=SEQ_LEN, global_batch=GLOBAL_BATCH, precision=Precision(compute="fp32", gradients="fp32")
        ),
        plan=plan,
    )


def write_text(folder: Path) -> Path:
    """Write a page of text with something to learn in it."""
    path = folder / "text.txt"
    path.write_text("".join(f"{number} times {number} is {number * number}. " for number in range(400)))
    return path


def start(folder: Path, split: Split, out: Path, *, steps: int, every: int) -> "subprocess.Popen[str]":
    """Start `shardwright run` on CPUs, from the plan of `split`; stdout and stderr are pipes of the returned process."""
    plan = folder / f"plan-{split.replace(' ', '')}.json"
    if not plan.exists():
        write_plan_file(plan, plan_file(split))
    command = [sys.executable, "-m", "shardwright", "run", str(plan), "--out", str(out), "--steps", str(steps)]
    command += ["--data", str(folder / "text.txt"), "--checkpoint-every", str(every), "--learning-rate", "3e-3"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
