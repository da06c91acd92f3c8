"""Tiny models of each family, and plan files for them."""

from typing import Any, Literal

from shardwright.costmodel.plan_file import PlanFile
from shardwright.specs.cluster import ClusterSpec, Host, Link, NodeGroup
from shardwright.specs.device import Device
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import ContextParallel, LayerRun, Offload, Plan, RecomputePolicy, Stage
from shardwright.specs.schedules import ScheduleName
from shardwright.specs.training import Precision, TrainingSpec

FamilyName = Literal["llama", "qwen3", "gpt2"]

SEQ_LEN = 16
GLOBAL_BATCH = 8


def model_config(family: FamilyName, *, layers: int = 2, tied: bool | None = None, **changes: Any) -> dict[str, Any]:
    """A config.json small enough to train in milliseconds, whose heads and widths tp 2 and 4 divide."""
    if family == "gpt2":
        config: dict[str, Any] = {
            "model_type": "gpt2",
            "vocab_size": 100,
            "n_positions": 32,
            "n_embd": 32,
            "n_layer": layers,
            "n_head": 4,
        }
    else:
        config = {
            "model_type": family,
            "vocab_size": 100,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 64,
        }
    # wide initial weights: with the usual 0.02 attention is nearly uniform, and a wrong gradient in it goes unseen
    config["initializer_range"] = 0.2
    config["bos_token_id"] = config["eos_token_id"] = 0
    config["tie_word_embeddings"] = family == "gpt2" if tied is None else tied
    return {**config, **changes}


def plan(
    *stages: tuple[LayerRun, ...],
    microbatches: int = 2,
    schedule: ScheduleName = "1f1b",
    sequence_parallel: bool = True,
    offload: bool = False,
    global_batch: int = GLOBAL_BATCH,
    context_parallel: ContextParallel = "all-gather",
    ulysses_degree: int = 1,
    **degrees: int,
) -> Plan:
    """A plan over the mesh of `degrees`, whose microbatches make up the global batch."""
    mesh = Mesh(**degrees)
    return Plan(
        mesh=mesh,
        micro_batch=global_batch // mesh.dp // microbatches,
        context_parallel=context_parallel,
        ulysses_degree=ulysses_degree,
        microbatches=microbatches,
        schedule=schedule,
        stages=tuple(Stage(layers=layers) for layers in stages),
        sequence_parallel=sequence_parallel,
        offload=Offload(optimizer_fraction=1 if offload else 0),
    )


def layers(count: int = 2, *, zero: Literal[0, 1, 2, 3] = 0, recompute: RecomputePolicy = "none") -> LayerRun:
    return LayerRun(count=count, zero_stage=zero, recompute=recompute)


def plan_file(
    config: dict[str, Any],
    plan: Plan,
    *,
    compute: Literal["fp32", "bf16", "fp16"] = "fp32",
    gradients: Literal["fp32", "bf16"] = "fp32",
    attention: Literal["flash", "unfused"] = "flash",
    seq_len: int = SEQ_LEN,
    loss_chunks: int = 1,
    **training: Any,
) -> PlanFile:
    """A plan file for a machine of the plan's ranks; `training`: further fields of the training spec."""
    return PlanFile(
        model_name=f"tiny-{config['model_type']}",
        model_config_json=config,
        cluster=host(plan.mesh.ranks),
        training=TrainingSpec(
            seq_len=seq_len,
            global_batch=plan.global_batch,
            precision=Precision(compute=compute, gradients=gradients),
            optimizer="sgd",
            attention=attention,
            loss_chunks=loss_chunks,
            **training,
        ),
        plan=plan,
    )


def host(ranks: int) -> ClusterSpec:
    """A machine with `ranks` CPU devices, in round numbers."""
    link = Link(kind="shared-memory", bytes_per_s=1e9, latency_seconds=1e-5)
    device = Device(
        name="cpu",
        kind="cpu",
        memory_bytes=1e9,
        memory_bytes_per_s=1e10,
        peak_flops_per_s={"fp32": 1e11, "bf16": 1e11, "fp16": 1e11, "fp8": 1e11},
    )
    group = NodeGroup(
        device=device,
        nodes=1,
        devices_per_node=ranks,
        intra_node=link,
        host_link=link,
        nic=link,
        host=Host(cores=ranks, memory_bytes=1e10, memory_bytes_per_s=1e10),
    )
    return ClusterSpec(name="this-machine", groups=(group,))
