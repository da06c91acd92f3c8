"""torchtitan's TOML, as release 0.2.2 reads it: the last release with such files (0.3 has configurations in Python).

Names are those of torchtitan/config/job_config.py of 0.2.2.
"""

import math
from collections.abc import Mapping
from typing import Any

from shardwright.base import SpecError
from shardwright.catalog.huggingface import load_model
from shardwright.costmodel import PlanFile
from shardwright.exports.choices import WORKLOAD, Choices, Found, Job, Target, choices_of, facts_of
from shardwright.exports.text import Keys, read_toml_text, toml_text
from shardwright.specs import stage_ranks

from .rows import Count, Joint, Named, Row, known_keys, read_rows, write_rows

_P, _A = "parallelism", "activation_checkpoint"
_MOST_OF_IT = 0.5
_EAGER, _COMPILED, _ASYNC, _FUSED_LOSS = (
    "torchtitan-eager",
    "torchtitan",
    "torchtitan-async-tp",
    "torchtitan-compiled-loss",
)
_SCHEDULES = {
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "interleaved-1f1b": "Interleaved1F1B",
    "zb-v": "ZBVZeroBubble",
    "dualpipe-v": "DualPipeV",
}
_NEAREST_SCHEDULE = {
    "breadth-first": "interleaved-1f1b",
    "zb-h1": "1f1b",
    "zb-2p": "1f1b",
    "v-half": "zb-v",
    "v-min": "zb-v",
}
_FLAVORS = {
    ("llama3", "8B"): "llama-3.1-8b",
    ("llama3", "70B"): "llama-3.1-70b",
    ("llama3", "405B"): "llama-3.1-405b",
    **{("qwen3", size): f"qwen3-{size.lower()}" for size in ("0.6B", "1.7B", "4B", "8B", "14B", "32B", "30B-A3B", "235B-A22B")},
    ("deepseek_v3", "16B"): "deepseek-v2-lite",
    ("deepseek_v3", "671B"): "deepseek-v3",
}  # fmt: skip
"""Architectures that torchtitan's flavors have (torchtitan/models/*/__init__.py), by the preset's name here."""

_RECIPES = {"fp8": "tensorwise", "fp8-rowwise": "rowwise", "fp8-rowwise-gw-hp": "rowwise_with_gw_hp"}
_FLOAT8, _MX = "quantize.linear.float8", "quantize.linear.mx"


def _stage_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    if choices["pp"] == 1:
        return {}
    parts, first, modules = choices["stage_layers"], 0, []
    for part in parts:
        modules.append([f"layers.{layer}" for layer in range(first, first + part)])
        first += part
    modules[0].insert(0, "tok_embeddings")
    modules[-1] += ["norm", "output"]
    schedule = choices["schedule"]
    name = _SCHEDULES[_NEAREST_SCHEDULE.get(schedule, schedule)]
    return {
        f"{_P}.pipeline_parallel_degree": choices["pp"],
        f"{_P}.pipeline_parallel_schedule": name,
        f"{_P}.module_fqns_per_model_part": modules,
    }


def _stage_choices(keys: Keys, found: Choices) -> Choices:
    pp = keys.count(f"{_P}.pipeline_parallel_degree", 1)
    names = {theirs.lower(): ours for ours, theirs in _SCHEDULES.items()}
    given = str(keys.take(f"{_P}.pipeline_parallel_schedule", "1F1B"))
    lowered = Keys({f"{_P}.pipeline_parallel_schedule": given.lower()}, keys.source)
    schedule = lowered.one_of(f"{_P}.pipeline_parallel_schedule", names, "1f1b")
    modules = keys.take(f"{_P}.module_fqns_per_model_part")
    each = keys.count(f"{_P}.pipeline_parallel_layers_per_stage", None)
    less = [keys.whole(f"{_P}.pipeline_parallel_{end}_stage_less_layers", 1) for end in ("first", "last")]
    if pp == 1:
        return {"pp": 1, "schedule": "1f1b", "stage_layers": (found["layer_count"],)}
    if modules is not None:
        if not isinstance(modules, list) or not all(isinstance(stage, list) for stage in modules):
            raise keys.wrong(f"{_P}.module_fqns_per_model_part", "a list of lists of modules")
        parts = [sum(str(name).startswith("layers.") for name in stage) for stage in modules]
    else:
        parts = _dealt(found["layer_count"], _stage_count(found["layer_count"], pp, schedule, each, less), less, keys)
    return {"pp": pp, "schedule": schedule, "stage_layers": tuple(parts)}


def _stage_count(layers: int, pp: int, schedule: str, each: int | None, less: list[int]) -> int:
    """Stages of all ranks, as pipeline_llm of 0.2.2 counts them."""
    if each is not None:
        return math.ceil((layers + sum(less)) / each)
    return pp if schedule in ("gpipe", "1f1b") else 2 * pp


def _dealt(layers: int, stages: int, less: list[int], keys: Keys) -> list[int]:
    """Layers of each stage, as generate_llm_fqn_per_model_part of 0.2.2 deals them."""
    if stages > layers + sum(less):
        raise SpecError(f"{keys.source}: {stages} stages are more than the {layers} layers and the ends")
    each, extra = divmod(layers + sum(less), stages)
    parts = [each + (stage < extra) for stage in range(stages)]
    parts[0] -= less[0]
    parts[-1] -= less[1]
    if min(parts) < 0 or each == 0:
        raise SpecError(f"{keys.source}: {layers} layers do not fill {stages} stages; give module_fqns_per_model_part")
    return parts


def _batch_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    """In a pipeline the local batch holds a rank's whole step, which the schedule cuts into microbatches."""
    dp = choices["dp_replicate"] * choices["dp_shard"]
    of_batch = {"training.global_batch_size": choices["global_batch"]}
    if choices["pp"] == 1:
        return {"training.local_batch_size": choices["micro_batch"], **of_batch}
    own = {f"{_P}.pipeline_parallel_microbatch_size": choices["micro_batch"]}
    return {"training.local_batch_size": choices["global_batch"] // dp, **of_batch, **own}


def _batch_choices(keys: Keys, found: Choices) -> Choices:
    local = keys.count("training.local_batch_size", 8)
    whole = keys.whole("training.global_batch_size", -1)
    size = keys.count(f"{_P}.pipeline_parallel_microbatch_size", 1)
    dp = found["dp_replicate"] * found["dp_shard"]
    whole = local * dp if whole <= 0 else whole
    if found["pp"] == 1:
        return {"micro_batch": local, "global_batch": whole}
    if local * dp != whole:
        raise keys.refused(
            "training.global_batch_size",
            f"{whole} is several local batches of {local} on dp {dp}: a pipeline that drains between them is not modelled; set "
            f"training.local_batch_size {whole // dp if whole % dp == 0 else local}",
        )
    return {"micro_batch": size, "global_batch": whole}


def _data_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    """FSDP in a pipeline neither gathers nor reduces for each microbatch with "never", which ZeRO-1 stands for (stacks.toml)."""
    stage = max(choices["zero_stage"])
    keys = {f"{_P}.data_parallel_replicate_degree": choices["dp_replicate"]}
    keys |= {f"{_P}.data_parallel_shard_degree": choices["dp_shard"]}
    if stage:
        keys[f"{_P}.fsdp_reshard_after_forward"] = "always" if stage == 3 else "never"
    return keys


def _data_choices(keys: Keys, found: Choices) -> Choices:
    replicate = keys.count(f"{_P}.data_parallel_replicate_degree", 1)
    given = keys.whole(f"{_P}.data_parallel_shard_degree", -1)
    kinds = {"default": "default", "always": "always", "never": "never"}
    reshard = keys.one_of(f"{_P}.fsdp_reshard_after_forward", kinds, "default")
    ranks = found["ranks"]
    model_ranks = found["pp"] * found["cp"] * found["tp"] * replicate
    shard, rest = (ranks // model_ranks, ranks % model_ranks) if given < 1 else (given, 0)
    if rest or not shard:
        raise SpecError(f"{keys.source}: the degrees of {model_ranks} ranks do not divide the {ranks} devices")
    if shard * found["cp"] == 1:
        stage = 0
    elif reshard == "always" or (reshard == "default" and found["pp"] == 1):
        stage = 3
    else:
        stage = 1 if found["pp"] > 1 else 2
    if stage == 0 and replicate > 1 and model_ranks > replicate:
        raise keys.refused(
            f"{_P}.data_parallel_replicate_degree",
            f"{replicate} beside other axes runs only with FSDP; set data_parallel_shard_degree",
        )
    return {"dp_replicate": replicate, "dp_shard": shard, "zero_stage": stage, "ranks": model_ranks * shard}


def _expert_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    if choices["ep"] == 1:
        return {}
    etp = choices["etp"] if choices["etp"] in (1, choices["tp"]) else 1
    keys = {f"{_P}.expert_parallel_degree": choices["ep"], f"{_P}.expert_tensor_parallel_degree": etp}
    if choices["expert_dispatch"] == "deduplicated":
        keys[f"{_P}.expert_parallel_comm_backend"] = "deepep"
    return keys


def _expert_choices(keys: Keys, found: Choices) -> Choices:
    ep = keys.count(f"{_P}.expert_parallel_degree", 1)
    etp = keys.count(f"{_P}.expert_tensor_parallel_degree", 1)
    dispatch = {"standard": "all-to-all", "deepep": "deduplicated"}
    kind = keys.one_of(f"{_P}.expert_parallel_comm_backend", dispatch, "all-to-all")
    if ep > 1 and etp not in (1, found["tp"]):
        raise keys.refused(
            f"{_P}.expert_tensor_parallel_degree", f"is {etp}; torchtitan runs 1 or that of tp, {found['tp']}"
        )
    return {"ep": ep, "etp": etp, "expert_dispatch": kind} if ep > 1 else {"ep": 1}


def _recompute_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    """All layers alike, or every Nth layer of a rank in full."""
    policies = choices["recompute"]
    kinds = set(policies)
    if kinds == {"none"}:
        return {f"{_A}.mode": "none"}
    if "selective" in kinds:
        return {f"{_A}.mode": "selective", f"{_A}.selective_ac_option": "op"}
    for every in range(2, len(policies) + 1):
        if _every(every, choices) == policies:
            return {f"{_A}.mode": "selective", f"{_A}.selective_ac_option": str(every)}
    return {f"{_A}.mode": "full"}


def _every(every: int, choices: Mapping[str, Any]) -> tuple[str, ...]:
    """Policies where every Nth layer of each rank, counted over its stages, is checkpointed (_apply_layer_sac of 0.2.2)."""
    parts = choices["stage_layers"]
    counted: dict[int, int] = {}
    policies = []
    for rank, part in zip(stage_ranks(choices["schedule"], choices["pp"], len(parts)), parts, strict=True):
        for _ in range(part):
            counted[rank] = counted.get(rank, 0) + 1
            policies.append("none" if counted[rank] % every else "full")
    return tuple(policies)


def _recompute_choices(keys: Keys, found: Choices) -> Choices:
    modes = {"none": "none", "full": "full", "selective": "selective", "memory_budget": "memory_budget"}
    mode = keys.one_of(f"{_A}.mode", modes, "selective")
    option = str(keys.take(f"{_A}.selective_ac_option", "2"))
    if mode == "memory_budget":
        raise keys.refused(
            f"{_A}.mode",
            "memory_budget leaves the choice to the compiler, which is not modelled; give full, selective or none",
        )
    if mode != "selective":
        return {"recompute": mode}
    if option == "op":
        return {"recompute": "selective"}
    if not option.isdigit():
        raise keys.wrong(f"{_A}.selective_ac_option", "op, or a number N for every Nth layer")
    return {"recompute": _every(max(1, int(option)), found)}


def _format_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    compute = "float32" if choices["compute"] in ("fp32", "tf32") else "bfloat16"
    keys: dict[str, Any] = {"training.mixed_precision_param": compute, "model.converters": []}
    if choices["parameters"] == "bf16":
        keys["training.dtype"] = "bfloat16"
    linear = choices["linear"]
    if linear in _RECIPES:
        keys |= {"model.converters": [_FLOAT8], f"{_FLOAT8}.recipe_name": _RECIPES[linear]}
        keys |= {f"{_FLOAT8}.enable_fsdp_float8_all_gather": True} if choices["gather"] == "fp8" else {}
    elif linear == "mxfp8":
        keys |= {"model.converters": [_MX]}
    return keys


def _format_choices(keys: Keys, found: Choices) -> Choices:
    kinds = {"bfloat16": "bf16", "float32": "fp32"}
    compute = keys.one_of("training.mixed_precision_param", kinds, "bf16")
    parameters = keys.one_of("training.dtype", kinds, "fp32")
    keys.one_of("training.mixed_precision_reduce", {"float32": "fp32"}, "fp32")
    converters = keys.take("model.converters", [])
    recipes = {theirs: ours for ours, theirs in _RECIPES.items()}
    recipe = keys.one_of(f"{_FLOAT8}.recipe_name", recipes, "fp8")
    keys.one_of(f"{_MX}.recipe_name", {"mxfp8_cublas": "mxfp8", "mxfp8_cublas_rceil": "mxfp8"}, "mxfp8")
    gathers = keys.switch(f"{_FLOAT8}.enable_fsdp_float8_all_gather")
    keys.switch(f"{_FLOAT8}.precompute_float8_dynamic_scale_for_fsdp")
    unknown = [name for name in converters if name not in (_FLOAT8, _MX)]
    if unknown:
        raise keys.refused("model.converters", f"{unknown[0]} is not modelled; modelled: {_FLOAT8}, {_MX}")
    linear = recipe if _FLOAT8 in converters else "mxfp8" if _MX in converters else None
    gather = "fp8" if gathers and linear == "fp8" else None
    return {"compute": compute, "parameters": parameters, "gradients": "fp32", "linear": linear, "gather": gather}


def _offload_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    """All of the optimizer is on the host, or nothing."""
    return {"training.enable_cpu_offload": True} if choices["offload_optimizer"] >= _MOST_OF_IT else {}


def _stack_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    stack = choices["stack"]
    keys: dict[str, Any] = {"optimizer.implementation": "fused" if stack == _FUSED_LOSS else "foreach"}
    if stack == _EAGER:
        return keys
    keys |= {"compile.enable": True, "compile.components": ["model", "loss"] if stack == _FUSED_LOSS else ["model"]}
    return keys | ({f"{_P}.enable_async_tensor_parallel": True} if stack == _ASYNC else {})


def _stack_choices(keys: Keys, found: Choices) -> Choices:
    components = keys.take("compile.components", ["model", "loss"])
    compiled = keys.switch("compile.enable") and "model" in components
    keys.take("optimizer.implementation")
    if keys.switch(f"{_P}.enable_async_tensor_parallel") and compiled:
        return {"stack": _ASYNC}
    return {"stack": (_FUSED_LOSS if "loss" in components else _COMPILED) if compiled else _EAGER}


ROWS: tuple[Row, ...] = (
    Count("tp", f"{_P}.tensor_parallel_degree"),
    Count("cp", f"{_P}.context_parallel_degree"),
    Named("context_parallel", f"{_P}.context_parallel_rotate_method", {"all-gather": "allgather", "ring": "alltoall"}, "all-gather", nearest="ring"),
    Joint(_stage_keys, _stage_choices),
    Joint(_data_keys, _data_choices),
    Joint(_expert_keys, _expert_choices),
    Count("seq_len", "training.seq_len", 2048),
    Joint(_batch_keys, _batch_choices),
    Joint(_recompute_keys, _recompute_choices),
    Joint(_offload_keys, lambda keys, found: {"offload_optimizer": int(keys.switch("training.enable_cpu_offload"))}),
    Joint(_format_keys, _format_choices),
    Joint(_stack_keys, _stack_choices),
    Named("optimizer", "optimizer.name", {"adamw": "AdamW"}, "adamw", {"Adam": "adamw"}, nearest="adamw"),
    Named("cp_load_balancer", f"{_P}.context_parallel_load_balancer", {"headtail": "headtail"}, "headtail", nearest="headtail"),
)  # fmt: skip


def _flavor(plan_file: PlanFile) -> tuple[str, str] | None:
    """The flavor of torchtitan whose architecture the model has."""
    own = plan_file.model()
    for flavor, preset in _FLAVORS.items():
        other = load_model(preset)
        if (own.hidden_size, own.vocab_size, own.blocks, own.tied_embeddings) == (
            other.hidden_size,
            other.vocab_size,
            other.blocks,
            other.tied_embeddings,
        ):
            return flavor
    return None


def _write(plan_file: PlanFile) -> str:
    choices = choices_of(plan_file) | {"cp_load_balancer": "headtail"}
    flavor = _flavor(plan_file)
    written = write_rows(ROWS, choices)
    named = {"model.name": flavor[0], "model.flavor": flavor[1]} if flavor else {}
    comment = "" if flavor else f" It has no flavor of {plan_file.model_name}: set model.name and model.flavor."
    return toml_text(
        dict(sorted({**named, **written}.items(), key=lambda item: item[0].rpartition(".")[0])),
        f"torchtitan 0.2.2: {plan_file.model_name} on {plan_file.cluster.name}, {plan_file.plan.mesh.ranks} ranks.{comment}",
    )


def _read(text: str, source: str, job: Job) -> Found:
    keys = Keys(read_toml_text(text, source), source)
    preset = _FLAVORS.get((str(keys.take("model.name")), str(keys.take("model.flavor"))))
    model = job.model or (load_model(preset) if preset else None)
    if model is None:
        raise SpecError(f"{source}: names no model that is known here (model.name, model.flavor); give --model")
    found = facts_of(model) | {"ranks": job.cluster.devices, "mtp_layers": 0, "model": model}
    found = read_rows(ROWS, keys, found)
    found.pop("cp_load_balancer")
    ignored = keys.check_known(known_keys("torchtitan"))
    if job.model is not None:
        found.pop("model")
    return Found(found, ignored=ignored)


TORCHTITAN = Target(
    name="torchtitan",
    release="torchtitan 0.2.2",
    suffix=".toml",
    stacks=(_FUSED_LOSS, _EAGER, _COMPILED, _ASYNC),
    axes=frozenset({"pp", "cp", "tp", "ep"}),
    outside=WORKLOAD | {"attention"},
    writes=_write,
    reads=_read,
    keys=lambda text: read_toml_text(text, "torchtitan"),
)
