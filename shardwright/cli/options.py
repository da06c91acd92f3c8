"""Arguments that commands share, and reading them into specs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from shardwright.costmodel import PlanFile, Reliability
    from shardwright.specs import ClusterSpec, Estimate, TrainingSpec
    from shardwright.specs.model import ModelSpec

EXIT_INFEASIBLE = 3

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A preset's name, a Hugging Face config.json, or a folder with one.")
]
PlanArgument = Annotated[Path, typer.Argument(metavar="PLAN", help="A plan file, from 'shardwright plan --out'.")]
ClusterOption = Annotated[
    str, typer.Option(help="Device and count (h100-sxm:64), a TOML file, or local (local:N for N CPU ranks).")
]
ProfileOption = Annotated[
    Path | None,
    typer.Option(help="A profile of the cluster's device, to predict from. Default: of local the newest that fits."),
]


def read_count_option(text: str | int) -> int:
    """What stands behind an option that counts tokens or sequences: `8192`, `8k`; a default is a number already."""
    from shardwright.base import SpecError, read_count

    try:
        return text if isinstance(text, int) else read_count(text)
    except SpecError as error:
        raise typer.BadParameter(str(error)) from None


SeqLenOption = Annotated[
    int, typer.Option(parser=read_count_option, metavar="COUNT", help="Tokens of a sequence: 8192, 8k, 1M.")
]
GlobalBatchOption = Annotated[
    int,
    typer.Option(
        parser=read_count_option, metavar="COUNT", help="Sequences of an optimizer step, over all ranks: 512, 4k."
    ),
]
PrecisionOption = Annotated[str, typer.Option(help="Format that matmuls compute in: bf16, fp16, tf32, fp32.")]
LinearPrecisionOption = Annotated[
    str | None, typer.Option(help="Lower format for the layers' weight matmuls: fp8, mxfp8, nvfp4.")
]
OptimizerOption = Annotated[str, typer.Option(help="adamw or sgd.")]
StackOption = Annotated[
    str,
    typer.Option(
        help="The software that will train, which the estimate is for: shardwright (its own executor), megatron-core, "
        "torchtitan, ... (docs/stacks.md)."
    ),
]
AttentionOption = Annotated[str, typer.Option(help="flash (a fused kernel) or unfused.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace output files that exist.")]

MtbfDeviceOption = Annotated[
    float | None,
    typer.Option("--mtbf-device-hours", help="Mean hours between failures of one device; shows what they leave."),
]
MtbfNodeOption = Annotated[
    float | None, typer.Option("--mtbf-node-hours", help="The same of what a node has besides its devices.")
]
CheckpointSecondsOption = Annotated[
    float | None, typer.Option("--checkpoint-seconds", help="How long training stands still for one checkpoint.")
]
RestartSecondsOption = Annotated[
    float | None, typer.Option("--restart-seconds", help="From a failure until the next step runs.")
]
CheckpointEveryOption = Annotated[
    int | None, typer.Option("--checkpoint-every", help="Steps between checkpoints. Default: Daly's optimum.")
]


def read_model(reference: str) -> "ModelSpec":
    """A preset, a config.json or a folder.

    Raises:
        SpecError: none of them, or not valid.
    """
    from shardwright.catalog.huggingface import load_model

    return load_model(reference)


def read_cluster(reference: str, profile: Path | None = None) -> "ClusterSpec":
    """`device:count`, a TOML file, or `local[:ranks]`, which looks at this machine; with the profile of a file.

    Raises:
        SpecError: none of them, or not valid; a profile of another device.
    """
    from shardwright.profiler.machine import resolve_cluster

    return _profiled(resolve_cluster(reference), profile)


def _profiled(cluster: "ClusterSpec", path: Path | None) -> "ClusterSpec":
    from shardwright.catalog import with_profile
    from shardwright.specs import read_profile

    return with_profile(cluster, read_profile(path), source=str(path)) if path else cluster


def note_what_profile_lacks(cluster: "ClusterSpec", training: "TrainingSpec") -> None:
    """One line on stderr, where the cluster has a profile and the training needs what it does not hold."""
    from shardwright.catalog import what_profile_lacks

    if sentence := what_profile_lacks(cluster, training):
        typer.echo(f"note: {sentence}", err=True)


def read_plan(path: Path, profile: Path | None = None) -> "tuple[PlanFile, ModelSpec]":
    """A plan file and its model, the plan checked against model, batch and cluster; with the profile of another file in
    place of the cluster's own.

    Raises:
        SpecError: not a plan file, or not valid; a profile of another device.
    """
    from shardwright.costmodel import check_plan, read_plan_file

    plan_file = read_plan_file(path)
    plan_file = plan_file.model_copy(update={"cluster": _profiled(plan_file.cluster, profile)})
    model = plan_file.model()
    check_plan(plan_file.plan, model, plan_file.cluster, plan_file.training)
    return plan_file, model


def tell_what_lacks(estimate: "Estimate", cluster: "ClusterSpec") -> str | None:
    """One line on stderr where a plan does not fit: by how much. The command prints what it found, and ends with
    `end_infeasible`; the same line is the result, None where the plan fits."""
    from shardwright.base import InfeasibleError
    from shardwright.costmodel import check_memory

    try:
        check_memory(estimate, cluster)
    except InfeasibleError as lacking:
        typer.echo(f"error: this plan does not fit: {lacking}", err=True)
        return str(lacking)
    return None


def end_infeasible(lacking: str | None) -> None:
    """End with the exit code of an infeasible plan, where `tell_what_lacks` told of one."""
    if lacking:
        raise SystemExit(EXIT_INFEASIBLE)


def read_training(
    *,
    seq_len: int,
    global_batch: int,
    precision: str,
    linear_precision: str | None,
    optimizer: str,
    attention: str,
    stack: str,
) -> "TrainingSpec":
    """The training options as a spec, in the formats that the stack fixes.

    Raises:
        SpecError: a value that is not allowed.
    """
    from shardwright.specs import TrainingSpec, named_stack

    values: dict[str, Any] = {
        "seq_len": seq_len,
        "global_batch": global_batch,
        "precision": {"compute": precision, "linear": linear_precision, **named_stack(stack).fixed_formats},
        "optimizer": optimizer,
        "attention": attention,
        "stack": stack,
    }
    return TrainingSpec.parse(values, source="training options")


def read_reliability(**options: float | None) -> "Reliability | None":
    """What the failure options say, or None where none is given.

    Raises:
        SpecError: some are missing, or not valid.
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
        raise SpecError(f"to say what failures leave of the throughput, give {', '.join(missing)} as well")
    return Reliability.parse(given, source="failure options")


def refuse_existing(*outputs: Path | None, force: bool, inputs: Sequence[Path] = ()) -> None:
    """Raise before any work when an output file exists and `--force` is not given, or its folder does not.

    Even with `--force` an output replaces neither an input, nor another output, nor what is no file (a device, say).

    Raises:
        SpecError: naming the file.
    """
    from shardwright.base import SpecError

    taken = {path.resolve(): "is read by this command" for path in inputs}
    for path in outputs:
        if path is None:
            continue
        if path.resolve() in taken:
            raise SpecError(f"{path}: {taken[path.resolve()]}; give another name")
        taken[path.resolve()] = "is given for two outputs"
        if not path.parent.is_dir():
            raise SpecError(f"{path}: the folder {path.parent} does not exist; make it first")
        if path.is_dir():
            raise SpecError(f"{path}: is a folder; name a file")
        if path.exists() and not path.is_file():
            raise SpecError(f"{path}: is a device or a pipe; name a file")
        if path.exists() and not force:
            raise SpecError(f"{path}: exists; give --force to replace it, or another name")


def print_json(data: object) -> None:
    """Plain JSON on stdout, nothing else."""
    typer.echo(json.dumps(data, indent=1, allow_nan=False))


def console() -> "Console":
    """Where tables go: as wide as the terminal, or wide enough for every table where there is none."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=130)
