"""The words of a job read into specs: clusters with their reserves and profiles, the training, what the planner may choose."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shardwright.base import SpecError, nearest
from shardwright.catalog import read_lengths, with_profile
from shardwright.costmodel import safe_reserve
from shardwright.costmodel.op_times import CALIBRATED
from shardwright.costmodel.tables import host_reserve_for
from shardwright.planner import OpenChoices
from shardwright.planner.space import Unstated
from shardwright.profiler.machine import resolve_cluster
from shardwright.specs import (
    APPROXIMATIONS,
    LSH_MOE,
    OPTIMIZER_STATES,
    OWN_STACK,
    QUALITY,
    ClusterSpec,
    NodeGroup,
    TrainingSpec,
    named_stack,
    read_profile,
    stack_names,
)
from shardwright.specs.model import ModelSpec

from .options import AUTO

# The parameters that `TrainingSpec` has by the same name.
_TRAINING_OPTIONS = (
    *(
        "seq_len",
        "global_batch",
        "optimizer",
        "attention",
        "fp8_attention",
        "stack",
        "loss_chunks",
        "overlaps_dispatch",
        "global_balance",
        "dispatch_pieces",
        "tokens_per_centroid",
        "expert_imbalance",
        "hot_experts",
    ),
    *(
        "mlp_tiles",
        "sequence_chunks",
        "mtp_layers",
        "activation_offload_layers",
        "high_precision_layers",
        "recompute_modules",
        "cuda_graphs",
    ),
    "trainable",
)
# What an option of the training spec says where the planner chooses beside it.
_CLOSED: dict[str, object] = {"loss_chunks": 1, "recompute_modules": ""}
# What these options are where nobody gives them.
_LEFT_OUT: dict[Unstated, object] = {"loss_chunks": None, "recompute_modules": ""}


def read_cluster(
    reference: str,
    profile: Path | None = None,
    memory_reserve: float | None = None,
    host_memory_reserve: float | None = None,
    *,
    safe: bool = False,
) -> ClusterSpec:
    """Read `device:count`, a TOML file, or `local[:ranks]`, which looks at this machine. Attach the profile of a file if given.
    A given reserve replaces that of every device or host. `safe`: without one, a device with its own memory keeps as much
    free as makes a plan fit with 90% probability, by the errors of predicted peaks, and its host what the system needs.

    Raises:
        SpecError: `reference` is none of them, or not valid; the profile is of another device; the reserve is no share.
    """
    for option, share in (("--memory-reserve", memory_reserve), ("--host-memory-reserve", host_memory_reserve)):
        if share is not None and not 0 <= share < 1:
            raise SpecError(f"{option} is {share:g}: give a share from 0 to below 1, such as 0.1")
    cluster = profiled(resolve_cluster(reference), profile)
    of_devices = max(CALIBRATED.memory_reserve, safe_reserve())

    def reserving(group: NodeGroup) -> NodeGroup:
        device, host, needed = group.device, group.host, safe and group.device.has_own_memory
        shares = (
            _first_given(memory_reserve, device.memory_reserve, of_devices if needed else None),
            _first_given(
                host_memory_reserve, host.memory_reserve, host_reserve_for(host.memory_bytes) if needed else None
            ),
        )
        kept = [part.model_copy(update={"memory_reserve": s}) for part, s in zip((device, host), shares, strict=True)]
        return group.model_copy(update={"device": kept[0], "host": kept[1]})

    return cluster.model_copy(update={"groups": tuple(map(reserving, cluster.groups))})


def _first_given(*shares: float | None) -> float | None:
    return next((share for share in shares if share is not None), None)


def profiled(cluster: ClusterSpec, path: Path | None) -> ClusterSpec:
    """Attach the profile in a file, if one is given.

    Raises:
        SpecError: it cannot be read, or is of another device.
    """
    return with_profile(cluster, read_profile(path), source=str(path)) if path else cluster


def read_training(
    options: Mapping[str, Any], model: ModelSpec, cluster: ClusterSpec, tell: Callable[[str], object]
) -> TrainingSpec:
    """Build the training spec of a model from options by name, in the formats that the stack fixes.

    Matmuls are in bf16 by default, and in fp16 where the cluster's devices lack it. This project's executor computes attention unfused
    where torch has no fused kernel for the model. `tell` is called with a note of each.

    Raises:
        SpecError: a value is not allowed.
    """
    formats = {"compute": _compute_format(options, cluster, tell), "linear": options["linear_precision"]}
    values = {name: options[name] for name in _TRAINING_OPTIONS} | _documents(options["lengths"], options["packing"])
    values["precision"] = formats | named_stack(options["stack"]).fixed_formats
    if options["attention"] == AUTO:
        unfused = options["stack"] == OWN_STACK and model.lacks_fused_attention
        values["attention"] = "unfused" if unfused else "flash"
        if unfused:
            tell(f"torch has no fused attention for {model.name}: planned with --attention unfused")
    return TrainingSpec.parse(values, source="training options")


_SLOW_BF16 = 2
"""A CPU without instructions for bf16 multiplies it many times more slowly than fp32. Measured rates closer than this may be of one speed."""


def _compute_format(options: Mapping[str, Any], cluster: ClusterSpec, tell: Callable[[str], object]) -> str:
    if options["precision"] != AUTO:
        return str(options["precision"])
    peaks = {group.device.name: group.device.peak_flops_per_s for group in cluster.groups}
    fixed = "compute" in named_stack(options["stack"]).fixed_formats
    slow = [name for name, each in peaks.items() if each.get("bf16", math.inf) < each.get("fp32", 0) / _SLOW_BF16]
    if slow:
        if not fixed:
            tell(f"{slow[0]} multiplies bf16 more slowly than fp32: planned with --precision fp32")
        return "fp32"
    if all("bf16" in each for each in peaks.values()) or not all("fp16" in each for each in peaks.values()):
        return "bf16"
    if not fixed:
        lacking = next(name for name, each in peaks.items() if "bf16" not in each)
        tell(f"{lacking} has no bf16: planned with --precision fp16, whose loss is scaled")
    return "fp16"


def _documents(lengths: str, packing: str) -> dict[str, Any]:
    """The fields of the training spec that say how long documents are.

    Raises:
        SpecError: lengths that cannot be read, or a packing without them.
    """
    if packing and not lengths:
        raise SpecError(
            f"--packing {packing} says what becomes of documents of several lengths; give --lengths, or leave it out"
        )
    return {"lengths": read_lengths(lengths), **({"packing": packing} if packing else {})} if lengths else {}


def read_may_choose(options: Mapping[str, Any]) -> tuple[dict[str, Any], OpenChoices]:
    """Read what the planner may choose of the training spec: the options without their `auto`, and what these opened.

    Raises:
        SpecError: a value is not allowed.
    """
    given, options = options, {**options, "loss_chunks": _loss_chunks(options)}
    opened = {name: options[name] == AUTO for name in _CLOSED}
    kept = {name: closed if opened[name] else options[name] for name, closed in _CLOSED.items()}
    formats = OpenChoices.parse({"linear_formats": options["allow_precision"]}, source="--allow-precision")
    names = str(options["allow_approximate"]).split(",")
    for name in names:
        word, known = name.strip().partition(":")[0], (*APPROXIMATIONS, LSH_MOE, *QUALITY)
        if (
            word and "=" not in word and word not in (*known, *OPTIMIZER_STATES)
        ):  # with an = it is a setting of the name before
            raise SpecError(
                f"--allow-approximate: '{word}' is not known; allowed: {', '.join(known)}.{nearest(word, known)}"
            )
    optimizers = ",".join(
        name for name in names if name.strip() not in (*APPROXIMATIONS, LSH_MOE)
    )  # the others are read with the plan's choices
    unstated = tuple(name for name, left_out in _LEFT_OUT.items() if given[name] == left_out)
    means = any(name.strip() == LSH_MOE for name in names)
    approximate = OpenChoices.parse(
        {"optimizers": optimizers, "tokens_per_centroid": means}, source="--allow-approximate"
    )
    return {**options, **kept}, formats.model_copy(
        update={
            **opened,
            "optimizers": approximate.optimizers,
            "tokens_per_centroid": means,
            "unstated": unstated,
        }
    )


def _loss_chunks(options: Mapping[str, Any]) -> int | str:
    """Return the pieces of the loss that were asked for; beside frozen weights the planner chooses, where the stack can."""
    given: int | str | None = options["loss_chunks"]
    if given is not None:
        return given
    stack = options["stack"]
    can = stack in stack_names() and named_stack(stack).runs.loss_chunks
    return AUTO if can and options["trainable"] != "all" else 1
