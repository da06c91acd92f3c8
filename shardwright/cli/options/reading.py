"""The arguments of a command read into specs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .job import AUTO

if TYPE_CHECKING:
    from shardwright.costmodel import PlanFile, Reliability
    from shardwright.planner import OpenChoices
    from shardwright.specs import ClusterSpec, NodeGroup, TrainingSpec
    from shardwright.specs.model import ModelSpec

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
    ),
    *(
        "mlp_tiles",
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


def read_model(reference: str) -> "ModelSpec":
    """Read a preset, a config.json or a folder that holds one.

    Raises:
        SpecError: `reference` is none of them, or not valid.
    """
    from shardwright.catalog.huggingface import load_model

    return load_model(reference)


def read_cluster(
    reference: str,
    profile: Path | None = None,
    memory_reserve: float | None = None,
    host_memory_reserve: float | None = None,
    *,
    safe: bool = False,
) -> "ClusterSpec":
    """Read `device:count`, a TOML file, or `local[:ranks]`, which looks at this machine. Attach the profile of a file if given.
    A given reserve replaces that of every device or host. `safe`: without one, a device with its own memory keeps as much
    free as makes a plan fit with 90% probability, by the errors of predicted peaks, and its host what the system needs.

    Raises:
        SpecError: `reference` is none of them, or not valid; the profile is of another device; the reserve is no share.
    """
    from shardwright.base import SpecError
    from shardwright.costmodel import SAFE, reserve_for
    from shardwright.costmodel.op_times import CALIBRATED
    from shardwright.costmodel.tables import host_reserve_for
    from shardwright.profiler.machine import resolve_cluster

    for option, share in (("--memory-reserve", memory_reserve), ("--host-memory-reserve", host_memory_reserve)):
        if share is not None and not 0 <= share < 1:
            raise SpecError(f"{option} is {share:g}: give a share from 0 to below 1, such as 0.1")
    cluster = _profiled(resolve_cluster(reference), profile)
    of_devices = max(CALIBRATED.memory_reserve, reserve_for(SAFE))

    def reserving(group: "NodeGroup") -> "NodeGroup":
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


def _profiled(cluster: "ClusterSpec", path: Path | None) -> "ClusterSpec":
    from shardwright.catalog import with_profile
    from shardwright.specs import read_profile

    return with_profile(cluster, read_profile(path), source=str(path)) if path else cluster


def note_what_profile_lacks(model: "ModelSpec", cluster: "ClusterSpec", training: "TrainingSpec") -> None:
    """Print one line on stderr if the cluster has a profile that lacks what training the model needs."""
    from shardwright.catalog import what_profile_lacks

    if sentence := what_profile_lacks(cluster, training, model):
        typer.echo(f"note: {sentence}", err=True)


def read_plan(path: Path, profile: Path | None = None) -> "tuple[PlanFile, ModelSpec]":
    """Read a plan file and its model, and check the plan against model, batch and cluster. A given profile replaces the
    cluster's own.

    Raises:
        SpecError: the file is no plan file, or not valid; the profile is of another device.
    """
    from shardwright.costmodel import check_plan, read_plan_file

    plan_file = read_plan_file(path)
    plan_file = plan_file.model_copy(update={"cluster": _profiled(plan_file.cluster, profile)})
    model = plan_file.model()
    check_plan(plan_file.plan, model, plan_file.cluster, plan_file.training)
    return plan_file, model


def read_training(options: Mapping[str, Any], model: "ModelSpec", cluster: "ClusterSpec") -> "TrainingSpec":
    """Build the training spec of a model from a command's parameters by name, in the formats that the stack fixes.

    Matmuls are in bf16 by default, and in fp16 where the cluster's devices lack it. This project's executor computes attention unfused
    where torch has no fused kernel for the model. A line on stderr says each.

    Raises:
        SpecError: a value is not allowed.
    """
    from shardwright.specs import OWN_STACK, TrainingSpec, named_stack

    formats = {"compute": _compute_format(options, cluster), "linear": options["linear_precision"]}
    values = {name: options[name] for name in _TRAINING_OPTIONS} | _documents(options["lengths"], options["packing"])
    values["precision"] = formats | named_stack(options["stack"]).fixed_formats
    if options["attention"] == AUTO:
        unfused = options["stack"] == OWN_STACK and model.lacks_fused_attention
        values["attention"] = "unfused" if unfused else "flash"
        if unfused:
            typer.echo(
                f"note: torch has no fused attention for {model.name}: planned with --attention unfused", err=True
            )
    return TrainingSpec.parse(values, source="training options")


def _compute_format(options: Mapping[str, Any], cluster: "ClusterSpec") -> str:
    from shardwright.specs import named_stack

    if options["precision"] != AUTO:
        return str(options["precision"])
    peaks = [group.device.peak_flops_per_s for group in cluster.groups]
    if all("bf16" in each for each in peaks) or not all("fp16" in each for each in peaks):
        return "bf16"
    if "compute" not in named_stack(options["stack"]).fixed_formats:
        lacking = next(group.device.name for group in cluster.groups if "bf16" not in group.device.peak_flops_per_s)
        typer.echo(f"note: {lacking} has no bf16: planned with --precision fp16, whose loss is scaled", err=True)
    return "fp16"


def _documents(lengths: str, packing: str) -> "dict[str, Any]":
    """The fields of the training spec that say how long documents are.

    Raises:
        SpecError: lengths that cannot be read, or a packing without them.
    """
    from shardwright.base import SpecError
    from shardwright.catalog import read_lengths

    if packing and not lengths:
        raise SpecError(
            f"--packing {packing} says what becomes of documents of several lengths; give --lengths, or leave it out"
        )
    return {"lengths": read_lengths(lengths), **({"packing": packing} if packing else {})} if lengths else {}


def read_may_choose(options: Mapping[str, Any]) -> "tuple[dict[str, Any], OpenChoices]":
    """Read what the planner may choose of the training spec: the options without their `auto`, and what these opened.

    Raises:
        SpecError: a value is not allowed.
    """
    from shardwright.planner import OpenChoices

    options = {**options, "loss_chunks": _loss_chunks(options)}
    opened = {name: options[name] == AUTO for name in _CLOSED}
    kept = {name: closed if opened[name] else options[name] for name, closed in _CLOSED.items()}
    formats = OpenChoices.parse({"linear_formats": options["allow_precision"]}, source="--allow-precision")
    return {**options, **kept}, formats.model_copy(update=opened)


def _loss_chunks(options: Mapping[str, Any]) -> int | str:
    """Return the pieces of the loss that were asked for; beside frozen weights the planner chooses, where the stack can."""
    from shardwright.specs import named_stack, stack_names

    given: int | str | None = options["loss_chunks"]
    if given is not None:
        return given
    stack = options["stack"]
    can = stack in stack_names() and named_stack(stack).runs.loss_chunks
    return AUTO if can and options["trainable"] != "all" else 1


def read_reliability(**options: float | None) -> "Reliability | None":
    """Build the reliability from the failure options; None if none is given.

    Raises:
        SpecError: an option is missing or not valid.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if not given:
        return None
    from shardwright.base import SpecError
    from shardwright.costmodel import Reliability

    needed = {"--checkpoint-seconds": "checkpoint_seconds", "--restart-seconds": "restart_seconds"}
    missing = [option for option, name in needed.items() if name not in given]
    if not given.keys() & {"mtbf_device_hours", "mtbf_node_hours"}:
        missing.insert(0, "--mtbf-device-hours or --mtbf-node-hours")
    if missing:
        raise SpecError(f"to estimate throughput with failures, give {', '.join(missing)} as well")
    return Reliability.parse(given, source="failure options")
