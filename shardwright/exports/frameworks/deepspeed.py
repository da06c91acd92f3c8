"""DeepSpeed's JSON, as release 0.19.8 reads it.

Names are those of deepspeed/runtime/constants.py, zero/config.py, zero/offload_config.py and tensor_parallel/config.py.
"""

from collections.abc import Mapping
from typing import Any

from shardwright.costmodel import PlanFile
from shardwright.exports.choices import WORKLOAD, Choices, Found, Job, Target, choices_of, facts_of
from shardwright.exports.text import Keys, json_text, read_json_text

from .rows import Joint, Row, known_keys, read_rows, write_rows

_Z, _O = "zero_optimization", "zero_optimization.offload_optimizer"
_CHECKPOINTING = "activation_checkpointing"


def _axis_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    keys: dict[str, Any] = {"tensor_parallel.autotp_size": choices["tp"]} if choices["tp"] > 1 else {}
    if choices["cp"] > 1:
        dp = choices["dp_replicate"] * choices["dp_shard"]
        keys |= {"sequence_parallel_size": choices["cp"], "data_parallel_size": dp}
    return keys


def _axis_choices(keys: Keys, found: Choices) -> Choices:
    """AutoTP splits weights and leaves the rest of a layer whole; sequences are split by Ulysses alone."""
    tp = keys.whole("tensor_parallel.autotp_size", 0)
    cp = keys.count("sequence_parallel_size", 1)
    keys.count("data_parallel_size", None)
    return {"tp": max(1, tp), "cp": cp, "context_parallel": "ulysses", "sequence_parallel": False, "pp": 1, "ep": 1}


def _batch_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    dp = choices["dp_replicate"] * choices["dp_shard"]
    return {
        "train_batch_size": choices["global_batch"],
        "train_micro_batch_size_per_gpu": choices["micro_batch"],
        "gradient_accumulation_steps": choices["global_batch"] // (dp * choices["micro_batch"]),
    }


def _batch_choices(keys: Keys, found: Choices) -> Choices:
    """Any two of the three say the third (DeepSpeedConfig._set_batch_related_parameters)."""
    whole, micro = keys.count("train_batch_size", None), keys.count("train_micro_batch_size_per_gpu", None)
    steps = keys.count("gradient_accumulation_steps", None)
    dp = max(1, found["ranks"] // (found["tp"] * found["cp"]))
    if micro is None and whole is not None:
        micro = max(1, whole // (dp * (steps or 1)))
    if whole is None and micro is not None and steps is not None:
        whole = micro * steps * dp
    if None not in (whole, micro, steps) and whole != micro * steps * dp:
        raise keys.refused(
            "train_batch_size",
            f"{whole} is not micro batch {micro} x {steps} accumulation steps x {dp} data-parallel ranks",
        )
    return {name: value for name, value in (("global_batch", whole), ("micro_batch", micro)) if value is not None}


def _zero_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    """What leaves the device needs a ZeRO stage even on one rank: 1 for the optimizer, 3 for parameters or a share of it."""
    stage, share, drives = max(choices["zero_stage"]), choices["offload_optimizer"], choices["offload_nvme"]
    streams = choices["offload_parameters"] == 1 and choices["dp_replicate"] * choices["dp_shard"] * choices["cp"] == 1
    needed = 3 if streams or drives or 0 < share < 1 else 1 if share else 0
    alone = choices["dp_shard"] * choices["cp"] == 1
    keys: dict[str, Any] = {f"{_Z}.stage": max(stage, needed) if alone else stage}
    if stage or needed:
        keys[f"{_Z}.overlap_comm"] = True
    if share:
        keys |= {f"{_O}.device": "nvme" if drives else "cpu", f"{_O}.pin_memory": True}
        keys |= {f"{_O}.ratio": float(share)} if share < 1 else {}
        keys |= {f"{_O}.nvme_path": "/local_nvme"} if drives else {}
    if streams:
        keys |= {f"{_Z}.offload_param.device": "cpu", f"{_Z}.offload_param.pin_memory": True}
    return keys


def _zero_choices(keys: Keys, found: Choices) -> Choices:
    stage = keys.whole(f"{_Z}.stage", 0)
    if stage not in (0, 1, 2, 3):
        raise keys.wrong(f"{_Z}.stage", "0, 1, 2 or 3")
    device = keys.one_of(f"{_O}.device", {"none": None, "cpu": "cpu", "nvme": "nvme"}, None)
    ratio = keys.share(f"{_O}.ratio", 1.0)
    if ratio != 1 and stage < 3:
        raise keys.refused(f"{_O}.ratio", f"{ratio:g} needs stage 3 (offload_config.py), and it is {stage}")
    keys.take(f"{_O}.nvme_path")
    if keys.switch(f"{_Z}.cpu_offload"):  # of releases before 0.3.16
        device = "cpu"
    streamed = keys.one_of(f"{_Z}.offload_param.device", {"none": None, "cpu": "cpu", "nvme": "nvme"}, None)
    keys.take(f"{_Z}.offload_param.nvme_path")
    alone = found["ranks"] == found["tp"]
    if streamed and not (alone and streamed == "cpu"):
        where = "on drives" if streamed == "nvme" else f"beside {found['ranks']} ranks that shard them"
        raise keys.refused(
            f"{_Z}.offload_param.device", f"{streamed} keeps parameters {where}, which is not modelled; give none"
        )
    if device and not stage:
        raise keys.refused(f"{_O}.device", f"{device} needs stage 1 or more, and it is 0")
    return {
        "zero_stage": 0 if alone else stage,
        "offload_optimizer": min(1, ratio) if device else 0,
        "offload_nvme": 1 if device == "nvme" else 0,
        "offload_parameters": 1 if streamed else 0,
    }


def _format_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{choices['compute']}.enabled": True} if choices["compute"] in ("bf16", "fp16") else {}


def _format_choices(keys: Keys, found: Choices) -> Choices:
    bf16, fp16 = keys.switch("bf16.enabled"), keys.switch("fp16.enabled")
    bf16 = keys.switch("bfloat16.enabled") or bf16
    if bf16 and fp16:
        raise keys.refused("fp16.enabled", "and bf16.enabled exclude each other; give one")
    kinds = {"bf16": "bf16", "bfloat16": "bf16", "fp16": "bf16"}
    keys.one_of("data_types.grad_accum_dtype", kinds, "bf16")
    return {"compute": "bf16" if bf16 else "fp16" if fp16 else "fp32", "linear": None, "gather": None}


def _optimizer_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    return {"optimizer.type": "AdamW" if choices["optimizer"] == "adamw" else "SGD"}


def _optimizer_choices(keys: Keys, found: Choices) -> Choices:
    kinds = {"AdamW": "adamw", "Adam": "adamw", "adamw": "adamw", "adam": "adamw", "SGD": "sgd", "sgd": "sgd"}
    name = keys.one_of("optimizer.type", kinds, "adamw")
    if name == "sgd" and keys.share("optimizer.params.momentum", 0.0):
        raise keys.refused("optimizer.params.momentum", "is not modelled; give 0, or AdamW")
    return {"optimizer": name}


def _recompute_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    """The section is there where the model checkpoints its layers; the model itself turns it on."""
    return {f"{_CHECKPOINTING}.partition_activations": False} if "full" in choices["recompute"] else {}


def _recompute_choices(keys: Keys, found: Choices) -> Choices:
    has_section = any(key == _CHECKPOINTING or key.startswith(f"{_CHECKPOINTING}.") for key in keys.values)
    for name in ("partition_activations", "cpu_checkpointing"):
        if keys.switch(f"{_CHECKPOINTING}.{name}"):
            raise keys.refused(f"{_CHECKPOINTING}.{name}", "is not modelled; give false")
    return {"recompute": "full" if has_section else "none"}


ROWS: tuple[Row, ...] = (
    Joint(_axis_keys, _axis_choices),
    Joint(_batch_keys, _batch_choices),
    Joint(_zero_keys, _zero_choices),
    Joint(_format_keys, _format_choices),
    Joint(_optimizer_keys, _optimizer_choices),
    Joint(_recompute_keys, _recompute_choices),
)

_ALLOWED_ONE = (f"{_Z}.zero_hpz_partition_size",)


def _write(plan_file: PlanFile) -> str:
    return json_text(write_rows(ROWS, choices_of(plan_file)))


def _read(text: str, source: str, job: Job) -> Found:
    keys = Keys(read_json_text(text, source), source)
    found = (facts_of(job.model) if job.model is not None else {}) | {
        "ranks": job.given.get("ranks") or job.cluster.devices
    }
    found = read_rows(ROWS, keys, found) | {"stack": "hf-deepspeed"}
    for key in _ALLOWED_ONE:
        if keys.values.get(key) == 1:
            keys.take(key)
    ignored = keys.check_known(known_keys("deepspeed"))
    return Found(found, ignored=ignored)


DEEPSPEED = Target(
    name="deepspeed",
    release="DeepSpeed 0.19.8",
    suffix=".json",
    stacks=("hf-deepspeed",),
    axes=frozenset({"cp", "tp"}),
    outside=WORKLOAD | {"seq_len", "attention", "trainable", "loss_chunks", "ranks"},
    writes=_write,
    reads=_read,
    keys=lambda text: read_json_text(text, "deepspeed"),
)
