"""Arguments that commands share, and reading them into specs."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from shardwright.base import SpecError
    from shardwright.costmodel import PlanFile, Reliability
    from shardwright.planner import OpenChoices
    from shardwright.specs import ClusterSpec, Estimate, NodeGroup, TrainingSpec
    from shardwright.specs.model import ModelSpec

EXIT_INFEASIBLE = 3

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Name a preset, a Hugging Face config.json, or a folder with one.")
]
PlanArgument = Annotated[
    Path, typer.Argument(metavar="PLAN", help="Name a plan file, as written by 'shardwright plan --out'.")
]
ClusterOption = Annotated[
    str, typer.Option(help="Give device:count (h100-sxm:64), a TOML file, or local (local:N for N CPU ranks).")
]
MemoryReserveOption = Annotated[
    float | None,
    typer.Option(
        help="Leave this share of each device's memory free: 0.06. Default: what makes a plan fit with 90% probability."
    ),
]
HostMemoryReserveOption = Annotated[
    float | None,
    typer.Option(help="Leave this share of each host's memory to the system: 0.05. Default: what GKE keeps of a node."),
]
ProfileOption = Annotated[
    Path | None,
    typer.Option(help="Predict from this profile of the cluster's device. Default: for local the newest that fits."),
]


def read_count_option(text: str | int) -> int:
    """Read the value of an option that counts tokens or sequences: `8192`, `8k`. A default is already a number."""
    from shardwright.base import SpecError, read_count

    try:
        return text if isinstance(text, int) else read_count(text)
    except SpecError as error:
        raise typer.BadParameter(str(error)) from None


def read_auto_option(text: str | int) -> int | str:
    """Read the value of an option that is a number, or `auto` where the planner may choose it."""
    if isinstance(text, int) or text == AUTO:
        return text
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is neither a whole number nor {AUTO}") from None


AUTO = "auto"
SeqLenOption = Annotated[
    int, typer.Option(parser=read_count_option, metavar="COUNT", help="Set the tokens of a sequence: 8192, 8k, 1M.")
]
GlobalBatchOption = Annotated[
    int,
    typer.Option(
        parser=read_count_option,
        metavar="COUNT",
        help="Set the sequences of an optimizer step, over all ranks: 512, 4k.",
    ),
]
PrecisionOption = Annotated[str, typer.Option(help="Set the format of matmuls: bf16, fp16, tf32, fp32.")]
LinearPrecisionOption = Annotated[
    str | None, typer.Option(help="Set a lower format for the layers' weight matmuls: fp8, fp8-rowwise, mxfp8, nvfp4.")
]
OptimizerOption = Annotated[str, typer.Option(help="Choose the optimizer: adamw or sgd.")]
StackOption = Annotated[
    str,
    typer.Option(
        help="Name the training software to estimate for: shardwright (its own executor), megatron-core, torchtitan, ... "
        "(docs/stacks.md)."
    ),
]
AttentionOption = Annotated[
    str,
    typer.Option(
        help="Choose the attention kernel: flash (fused) or unfused; auto: flash where the software has one for the model."
    ),
]
Fp8AttentionOption = Annotated[
    bool, typer.Option("--fp8-attention", help="Compute fused attention in fp8, on copies of its inputs.")
]
LossChunksOption = Annotated[
    int,
    typer.Option(help="Run head and loss in that many pieces of a microbatch, so that fewer logits are alive at once."),
]
AllowPrecisionOption = Annotated[
    str,
    typer.Option(
        metavar="FORMATS",
        help="Let the planner choose one of these lower formats for the layers' weight matmuls, such as fp8,mxfp8; all: every one "
        "that device and stack have.",
    ),
]
ChosenLossChunksOption = Annotated[
    int | None,
    typer.Option(
        parser=read_auto_option,
        metavar="COUNT",
        help="Run head and loss in that many pieces of a microbatch, so that fewer logits are alive at once; auto: let the "
        "planner choose. Left out, 1, and auto beside frozen weights (--trainable), where logits decide what fits.",
    ),
]
OverlapsDispatchOption = Annotated[
    bool, typer.Option("--overlap-dispatch", help="Send tokens to experts beside the compute of another microbatch.")
]
MtpLayersOption = Annotated[
    int, typer.Option(help="Add that many multi-token prediction layers, each with the head and its loss again.")
]
ActivationOffloadLayersOption = Annotated[
    int, typer.Option(help="Keep the activations of that many layers of each rank on the host, between their passes.")
]
MlpTilesOption = Annotated[
    int,
    typer.Option(
        help="Run dense feed-forwards in that many pieces of a microbatch, so that the tensors of one piece are alive; each piece's "
        "forward runs again in the backward."
    ),
]
HighPrecisionLayersOption = Annotated[
    int, typer.Option(help="Keep that many layers out of the lower format of --linear-precision.")
]
RecomputeModulesOption = Annotated[
    str,
    typer.Option(
        help="Name what selective recompute repeats, joined by +: core_attn, layernorm, mla_up_proj, mlp, moe, moe_act, "
        "shared_experts. Left out, what the stack repeats."
    ),
]
ChosenRecomputeModulesOption = Annotated[
    str,
    typer.Option(
        help="Name what selective recompute repeats, joined by +: core_attn, layernorm, mla_up_proj, mlp, moe, moe_act, "
        "shared_experts; auto: let the planner choose. Left out, what the stack repeats."
    ),
]
CudaGraphsOption = Annotated[
    str,
    typer.Option(help="Choose what is launched as one graph: none, router, attention, attention+router, whole."),
]
TrainableOption = Annotated[
    str,
    typer.Option(
        metavar="PART",
        help="Set what is trained: all; lora:r=16,targets=attention (or mlp, all-linear, q_proj+v_proj), also with base=int8, gptq "
        "or nf4 for the frozen weights; qlora:r=16,targets=...; layers:4 or layers:4+head.",
    ),
]
LENGTHS_HELP = "Say how long documents are: uniform:512..8k, or a file with one length, or length,count, in each line."
LengthsOption = Annotated[
    str, typer.Option(metavar="LENGTHS", help=f"{LENGTHS_HELP} Left out, each fills its sequence.")
]
PackingOption = Annotated[
    str,
    typer.Option(
        help="Choose what a sequence of --seq-len tokens holds: packed (documents in a row, each attends to itself alone; the default), "
        "or padded (one document)."
    ),
]
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
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace output files that exist.")]

MtbfDeviceOption = Annotated[
    float | None,
    typer.Option(
        "--mtbf-device-hours", help="Set the mean hours between failures of one device; shows the remaining throughput."
    ),
]
MtbfNodeOption = Annotated[
    float | None, typer.Option("--mtbf-node-hours", help="Set the same for the parts of a node other than its devices.")
]
CheckpointSecondsOption = Annotated[
    float | None, typer.Option("--checkpoint-seconds", help="Set how long one checkpoint stops training.")
]
RestartSecondsOption = Annotated[
    float | None, typer.Option("--restart-seconds", help="Set the time from a failure to the next step.")
]
CheckpointEveryOption = Annotated[
    int | None, typer.Option("--checkpoint-every", help="Set the steps between checkpoints. Default: Daly's optimum.")
]


def needs_torch(what: str, missing: ModuleNotFoundError) -> "SpecError":
    """Return the error for a command that needs a package of `shardwright[run]`."""
    from shardwright.base import SpecError

    return SpecError(f"{what} needs {missing.name}, which is not installed: pip install 'shardwright[run]'")


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


def read_training(options: Mapping[str, Any], model: "ModelSpec") -> "TrainingSpec":
    """Build the training spec of a model from a command's parameters by name, in the formats that the stack fixes.

    This project's executor computes attention unfused where torch has no fused kernel for the model; a line on stderr says so.

    Raises:
        SpecError: a value is not allowed.
    """
    from shardwright.specs import OWN_STACK, TrainingSpec, named_stack

    formats = {"compute": options["precision"], "linear": options["linear_precision"]}
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


def refuse_existing(*outputs: Path | None, force: bool, inputs: Sequence[Path] = ()) -> None:
    """Raise before any work if an output file exists without `--force`, or if its folder does not exist.

    Even with `--force` an output never replaces an input, another output, or what is no plain file (such as a device).

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
    """Print plain JSON on stdout, nothing else. A number that is not finite is null: it could not be computed."""
    typer.echo(json.dumps(_finite(data), indent=1, allow_nan=False))


def _finite(data: object) -> object:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, (list, tuple)) else data


def console() -> "Console":
    """The console for tables: as wide as the terminal, or 130 columns where there is none."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=130)
