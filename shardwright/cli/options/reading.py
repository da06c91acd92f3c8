"""The arguments of a command read into specs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from shardwright.costmodel import PlanFile, Reliability
    from shardwright.specs import ClusterSpec, TrainingSpec
    from shardwright.specs.model import ModelSpec


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
    """See `shardwright.jobs.read_cluster`."""
    from shardwright.jobs import read_cluster

    return read_cluster(reference, profile, memory_reserve, host_memory_reserve, safe=safe)


def read_training(options: Mapping[str, Any], model: "ModelSpec", cluster: "ClusterSpec") -> "TrainingSpec":
    """See `shardwright.jobs.read_training`; what it tells goes to stderr."""
    from shardwright.jobs import read_training

    return read_training(options, model, cluster, note)


def note(sentence: str) -> None:
    """Print a line on stderr."""
    typer.echo(f"note: {sentence}", err=True)


def note_what_profile_lacks(model: "ModelSpec", cluster: "ClusterSpec", training: "TrainingSpec") -> None:
    """Print one line on stderr if the cluster has a profile that lacks what training the model needs."""
    from shardwright.catalog import what_profile_lacks

    if sentence := what_profile_lacks(cluster, training, model):
        note(sentence)


def read_plan(path: Path, profile: Path | None = None) -> "tuple[PlanFile, ModelSpec]":
    """Read a plan file and its model, and check the plan against model, batch and cluster. A given profile replaces the
    cluster's own.

    Raises:
        SpecError: the file is no plan file, or not valid; the profile is of another device.
    """
    from shardwright.costmodel import check_plan, read_plan_file
    from shardwright.jobs import profiled

    plan_file = read_plan_file(path)
    plan_file = plan_file.model_copy(update={"cluster": profiled(plan_file.cluster, profile)})
    model = plan_file.model()
    check_plan(plan_file.plan, model, plan_file.cluster, plan_file.training)
    return plan_file, model


def read_plans(path: Path) -> "list[PlanFile]":
    """Read the plan files of all phases of a run; a plan file is one.

    Raises:
        SpecError: the file is neither a plan file nor a phases file, or not valid.
    """
    from shardwright.costmodel import read_plan_file
    from shardwright.costmodel.phases import is_phases_file, read_phases_file

    if not is_phases_file(path):
        return [read_plan_file(path)]
    return [phase.plan_file for phase in read_phases_file(path).phases]


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
