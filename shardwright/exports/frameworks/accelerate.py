"""Accelerate's configuration in YAML, as `accelerate launch --config_file` of release 1.15 reads it.

Names are those of accelerate/commands/config/config_args.py and of the options of commands/launch.py.
"""

from collections.abc import Mapping
from typing import Any

from shardwright.costmodel import PlanFile
from shardwright.exports.choices import WORKLOAD, Choices, Found, Job, Target, choices_of, facts_of
from shardwright.exports.text import Keys, read_yaml_text, yaml_text

from .rows import Joint, Row, known_keys, read_rows, write_rows

_F, _P = "fsdp_config.fsdp", "parallelism_config.parallelism_config"
_FSDP2, _FSDP1 = "accelerate", "hf-trainer"
_SIZES = {"dp_replicate": "dp_replicate_size", "dp_shard": "dp_shard_size", "tp": "tp_size", "cp": "cp_size"}
# torch's ShardingStrategy, by name and by number
_STRATEGIES: dict[Any, tuple[int, bool]] = {
    "FULL_SHARD": (3, False),
    "SHARD_GRAD_OP": (2, False),
    "NO_SHARD": (0, False),
    "HYBRID_SHARD": (3, True),
    "HYBRID_SHARD_ZERO2": (2, True),
}
_STRATEGIES |= {str(number): kind for number, kind in enumerate(list(_STRATEGIES.values()), start=1)}
_STRATEGIES |= {int(number): kind for number, kind in _STRATEGIES.items() if number.isdigit()}
_NAMED = {
    kind: name for name, kind in reversed(list(_STRATEGIES.items())) if isinstance(name, str) and not name.isdigit()
}


def _machine_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    ranks = choices["pp"] * choices["dp_replicate"] * choices["dp_shard"] * choices["cp"] * choices["tp"]
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "FSDP" if _is_sharded(choices) else "MULTI_GPU" if ranks > 1 else "NO",
        "num_machines": max(1, ranks // choices["per_machine"]),
        "num_processes": ranks,
        "machine_rank": 0,
        "main_training_function": "main",
        "rdzv_backend": "static",
        "use_cpu": False,
    }


def _is_sharded(choices: Mapping[str, Any]) -> bool:
    """Whether FSDP holds the model: it shards, or axes besides data parallelism need its mesh."""
    placed = choices["offload_optimizer"] > 0 or "full" in choices["recompute"]
    return bool(max(choices["zero_stage"]) > 0 or choices["cp"] * choices["tp"] > 1 or placed)


def _machine_choices(keys: Keys, found: Choices) -> Choices:
    kinds = {"FSDP": "FSDP", "MULTI_GPU": "plain", "NO": "plain"}
    kind = keys.take("distributed_type", "NO")
    if kind == "DEEPSPEED":
        raise keys.refused("distributed_type", "DEEPSPEED keeps its choices in DeepSpeed's JSON; import that file")
    kind = keys.one_of("distributed_type", kinds, "plain")
    ranks = keys.whole("num_processes", -1)
    return {"kind": kind, "ranks": ranks if ranks > 0 else found["devices"], "pp": 1, "ep": 1}


def _shard_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    if not _is_sharded(choices):
        return {}
    stage = max(choices["zero_stage"])
    keys: dict[str, Any] = {}
    if choices["stack"] == _FSDP1:
        hybrid = choices["dp_replicate"] > 1 and stage > 0
        keys |= {f"{_F}_version": 1, f"{_F}_sharding_strategy": _NAMED[2 if stage == 1 else stage, hybrid]}
    else:
        keys |= {f"{_F}_version": 2, f"{_F}_reshard_after_forward": stage == 3}
        keys |= _parallelism_keys(choices)
    keys |= {
        f"{_F}_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        f"{_F}_offload_params": choices["offload_optimizer"] == 1,
        f"{_F}_activation_checkpointing": "full" in choices["recompute"],
        f"{_F}_state_dict_type": "SHARDED_STATE_DICT",
    }
    return keys


def _parallelism_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    if choices["dp_replicate"] * choices["tp"] * choices["cp"] == 1:
        return {}
    keys: dict[str, Any] = {f"{_P}_{name}": choices[axis] for axis, name in _SIZES.items()}
    if choices["cp"] > 1:
        kinds = {"all-gather": "allgather", "ring": "alltoall"}
        keys[f"{_P}_cp_comm_strategy"] = kinds.get(choices["context_parallel"], "alltoall")
    return keys


def _shard_choices(keys: Keys, found: Choices) -> Choices:
    version = keys.one_of(f"{_F}_version", {1: 1, 2: 2, "1": 1, "2": 2}, 1)
    strategy = keys.one_of(f"{_F}_sharding_strategy", _STRATEGIES, (3, False))
    # FSDP1 had it as the name of a strategy
    names = {True: 3, False: 2, "true": 3, "false": 2} | {
        name: kind[0] for name, kind in _STRATEGIES.items() if not isinstance(name, int)
    }
    reshard = keys.one_of(f"{_F}_reshard_after_forward", names, 3)
    offloads = keys.switch(f"{_F}_offload_params")
    checkpoints = keys.switch(f"{_F}_activation_checkpointing")
    degrees = {axis: keys.count(f"{_P}_{name}", None) for axis, name in _SIZES.items()}
    strategies = {"allgather": "all-gather", "alltoall": "ring"}
    exchange = keys.one_of(f"{_P}_cp_comm_strategy", strategies, "all-gather")
    if (keys.count(f"{_P}_sp_size", 1)) > 1:
        raise keys.refused(f"{_P}_sp_size", "is DeepSpeed's; import DeepSpeed's JSON with sequence_parallel_size")
    common = {
        "context_parallel": exchange,
        "sequence_parallel": False,
        "tp": degrees["tp"] or 1,
        "cp": degrees["cp"] or 1,
    }
    if found["kind"] == "plain":
        return common | {"zero_stage": 0, "recompute": "none", "stack": _FSDP2}
    common |= {"offload_optimizer": 1 if offloads else 0, "recompute": "full" if checkpoints else "none"}
    if version == 1:
        stage, hybrid = strategy
        shard = found["per_machine"] if hybrid else None
        return common | {"zero_stage": stage, "stack": _FSDP1} | ({"dp_shard": shard} if shard else {})
    ranks = {"dp_replicate": degrees["dp_replicate"] or 1}
    ranks |= {"dp_shard": degrees["dp_shard"]} if degrees["dp_shard"] else {}
    shards = (degrees["dp_shard"] or 2) * (degrees["cp"] or 1) > 1
    return common | ranks | {"zero_stage": reshard if shards else 0, "stack": _FSDP2}


def _format_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    compute = choices["compute"]
    return {"mixed_precision": compute if compute in ("bf16", "fp16") else "no"}


def _format_choices(keys: Keys, found: Choices) -> Choices:
    kinds = {"no": "fp32", False: "fp32", "bf16": "bf16", "fp16": "fp16"}
    if keys.values.get("mixed_precision") == "fp8":
        raise keys.refused(
            "mixed_precision",
            "fp8 has a recipe in code, which is not read; give bf16, and --linear-precision when planning",
        )
    return {"compute": keys.one_of("mixed_precision", kinds, "fp32"), "linear": None, "gather": None}


ROWS: tuple[Row, ...] = (
    Joint(_machine_keys, _machine_choices),
    Joint(_shard_keys, _shard_choices),
    Joint(_format_keys, _format_choices),
)


def _write(plan_file: PlanFile) -> str:
    choices = choices_of(plan_file) | {"per_machine": plan_file.cluster.node.devices_per_host}
    return yaml_text(
        write_rows(ROWS, choices),
        f"Accelerate 1.15: {plan_file.model_name} on {plan_file.cluster.name}. Batch sizes and sequence length stand in the training script.",
    )


def _read(text: str, source: str, job: Job) -> Found:
    keys = Keys(read_yaml_text(text, source), source)
    found = facts_of(job.model) if job.model is not None else {}
    found |= {"devices": job.cluster.devices, "per_machine": job.cluster.node.devices_per_host}
    found = read_rows(ROWS, keys, found)
    for name in ("kind", "devices", "per_machine"):
        found.pop(name)
    ignored = keys.check_known(known_keys("accelerate"))
    return Found(found, ignored=ignored)


ACCELERATE = Target(
    name="accelerate",
    release="Accelerate 1.15",
    suffix=".yaml",
    stacks=(_FSDP2, _FSDP1),
    axes=frozenset({"cp", "tp"}),
    outside=WORKLOAD | {"seq_len", "micro_batch", "global_batch", "attention", "trainable", "loss_chunks", "optimizer"},
    writes=_write,
    reads=_read,
    keys=lambda text: read_yaml_text(text, "accelerate"),
)
