"""Megatron-LM's command line, as `pretrain_gpt.py` of core_v0.16 takes it."""

import shlex
from collections.abc import Mapping
from typing import Any

from shardwright.base import SpecError
from shardwright.costmodel import PlanFile
from shardwright.exports.choices import WORKLOAD, Choices, Found, Job, Target, choices_of, facts_of
from shardwright.exports.text import Keys, read_flags

from .mcore import ASSUMED, FORMATS, PLACE
from .megatron_model import model_keys, read_model
from .rows import LACKING, Joint, Row, known_keys, lacking, read_rows, write_rows

_COMPUTE = {"bf16": "bf16", "fp16": "fp16"}
_PLAIN, _FUSED_ROUTER = "megatron-core", "megatron-core-0.15"


def _format_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    compute = choices["compute"]
    named = {_COMPUTE[compute]: True} if compute in _COMPUTE else {}
    if compute == "bf16" and choices["gradients"] == "bf16":
        return named | {"grad_reduce_in_bf16": True}
    return named | ({"accumulate_allreduce_grads_in_fp32": True} if compute in _COMPUTE else {})


def _format_choices(keys: Keys, found: Choices) -> Choices:
    """arguments.py widens gradients to fp32 with --bf16 unless --grad-reduce-in-bf16 is given."""
    bf16, fp16 = keys.switch("bf16"), keys.switch("fp16")
    if bf16 and fp16:
        raise keys.refused("fp16", "and --bf16 exclude each other; give one")
    narrow, wide = keys.switch("grad_reduce_in_bf16"), keys.switch("accumulate_allreduce_grads_in_fp32")
    is_narrow = (bf16 and narrow) or (fp16 and not wide)
    return {
        "compute": "bf16" if bf16 else "fp16" if fp16 else "fp32",
        "parameters": "fp32",
        "gradients": "bf16" if is_narrow else "fp32",
    }


def _stack_keys(choices: Mapping[str, Any]) -> dict[str, Any]:
    return {"moe_router_fusion": True} if choices["experts"] and choices["stack"] == _FUSED_ROUTER else {}


def _stack_choices(keys: Keys, found: Choices) -> Choices:
    """A fused router is what the two stacks differ in; a model without experts has none."""
    fused = keys.switch("moe_router_fusion")
    return {"stack": _FUSED_ROUTER if fused or not found["experts"] else _PLAIN}


ROWS: tuple[Row, ...] = (*PLACE, *FORMATS, Joint(_format_keys, _format_choices), Joint(_stack_keys, _stack_choices))


def spelled(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _write(plan_file: PlanFile) -> str:
    choices = choices_of(plan_file)
    model = plan_file.model()
    of_model = model_keys(model) or {}
    missing = (
        [] if of_model else [f"# the arguments of {model.name} itself are not written: add those of your own script"]
    )
    own = write_rows(ROWS, choices) | write_rows(ASSUMED, choices)
    if choices["cuda_graphs"] == "whole":
        own["no_check_for_nan_in_loss_and_grad"] = True
    cluster = plan_file.cluster
    each = min(cluster.node.devices_per_host, plan_file.plan.mesh.ranks)
    launcher = ["torchrun", "--nnodes", str(plan_file.plan.mesh.ranks // each), "--nproc-per-node", str(each)]
    lines = [
        f'{shlex.join(launcher)} --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port 29500 pretrain_gpt.py',
        *(_flag(key, value) for key, value in (of_model | own).items()),
        '"$@"',
    ]
    head = [
        "#!/bin/bash",
        f"# Megatron-LM core_v0.16 (megatron-core 0.16): {plan_file.model_name} on {cluster.name}.",
        "# Run it on each machine with NODE_RANK and MASTER_ADDR set; give data, tokenizer and learning rate as arguments.",
        *missing,
        "export CUDA_DEVICE_MAX_CONNECTIONS=1",
    ]
    return "\n".join(head) + "\n" + " \\\n  ".join(lines) + "\n"


def _flag(key: str, value: Any) -> str:
    if value is True:
        return spelled(key)
    parts = value if isinstance(value, list) else [value]
    return shlex.join([spelled(key), *(str(part) for part in parts)])


def _read(text: str, source: str, job: Job) -> Found:
    flags, launcher = read_flags(text, source)
    keys = Keys(flags, source, write=spelled)
    model = read_model(keys)
    if model is None and job.model is None:
        raise SpecError(f"{source}: names no model (--num-layers, --hidden-size, --num-attention-heads); give --model")
    known = job.model or model
    assert known is not None
    found = facts_of(known) | _ranks(launcher, source)
    found = read_rows((*ROWS, *ASSUMED), keys, found)
    rows = found.pop(LACKING, ())
    ignored = keys.check_known(known_keys("megatron"))
    if "global_batch" not in found and "micro_batch" in found:
        found |= _without_accumulation(found, job)
    if model is not None:
        found["model"] = model
    return Found(found, lambda choices: lacking(rows, choices, spelled), ignored)


def _without_accumulation(found: Choices, job: Job) -> Choices:
    """arguments.py computes one microbatch where no global batch is given."""
    ranks = found.get("ranks") or job.cluster.devices
    dp = ranks // (found["tp"] * found["pp"] * found["cp"])
    return {"global_batch": max(1, dp) * found["micro_batch"]} if "global_batch" not in job.given else {}


def _ranks(launcher: Mapping[str, Any], source: str) -> Choices:
    """The ranks that torchrun starts, where its arguments are numbers."""
    each, nodes = (launcher.get(name) for name in ("nproc_per_node", "nnodes"))
    if not (str(each).isdigit() and (nodes is None or str(nodes).isdigit())):
        return {}
    return {"ranks": int(str(each)) * int(str(nodes or 1))}


def _keys(text: str) -> dict[str, Any]:
    flags, _ = read_flags(text, MEGATRON.name)
    return {spelled(key): "given" if value is True else value for key, value in flags.items()}


MEGATRON = Target(
    name="megatron",
    release="Megatron-LM core_v0.16",
    suffix=".sh",
    stacks=(_FUSED_ROUTER, _PLAIN),
    axes=frozenset({"pp", "cp", "tp", "ep"}),
    outside=WORKLOAD | {"dispatch_multiprocessors"},
    writes=_write,
    reads=_read,
    keys=_keys,
)
