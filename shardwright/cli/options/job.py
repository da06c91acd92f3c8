"""Options that commands share: the job, how it runs, what is printed and written."""

from pathlib import Path
from typing import Annotated

import typer

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
_SEQ_LEN_HELP = "Set the tokens of a sequence: 8192, 8k, 1M."
_GLOBAL_BATCH_HELP = "Set the sequences of an optimizer step, over all ranks: 512, 4k."
_IN_PHASES = " Needed unless --phases states it in each phase."
SeqLenOption = Annotated[int, typer.Option(parser=read_count_option, metavar="COUNT", help=_SEQ_LEN_HELP)]
GlobalBatchOption = Annotated[int, typer.Option(parser=read_count_option, metavar="COUNT", help=_GLOBAL_BATCH_HELP)]


def _needed_without_phases(context: typer.Context, parameter: typer.CallbackParam, value: int | None) -> int | None:
    """
    Raises:
        SpecError: the option is not given, and neither is a file of phases.
    """
    from shardwright.base import SpecError

    if value is None and context.params.get("phases") is None and not context.resilient_parsing:
        raise SpecError(f"{parameter.opts[0]} is missing; give it, or --phases and a file that states it in each phase")
    return value


PhasedSeqLenOption = Annotated[
    int | None,
    typer.Option(
        parser=read_count_option,
        metavar="COUNT",
        help=_SEQ_LEN_HELP + _IN_PHASES,
        callback=_needed_without_phases,
    ),
]
PhasedGlobalBatchOption = Annotated[
    int | None,
    typer.Option(
        parser=read_count_option,
        metavar="COUNT",
        help=_GLOBAL_BATCH_HELP + _IN_PHASES,
        callback=_needed_without_phases,
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        help="Set the format of matmuls: bf16, fp16 (the loss is scaled), tf32, fp32, or auto: bf16, fp16 where a device lacks it, fp32 on a CPU that lacks it."
    ),
]
LinearPrecisionOption = Annotated[
    str | None, typer.Option(help="Set a lower format for the layers' weight matmuls: fp8, fp8-rowwise, mxfp8, nvfp4.")
]
OptimizerOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Choose the optimizer, with settings: adamw, sgd:momentum=0.9, lion, adamw8bit, adafactor, muon, soap, "
        "galore:rank=1024,period=200, frugal, cosmos, sinkgd (docs/running.md).",
    ),
]
AllowApproximateOption = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="Let the planner choose one of these in place of the given optimizer, such as adamw8bit,galore:rank=1024, or of these between "
        "replicas: 8-bit-gradients, 1-bit-adam, co2, diloco, streaming-diloco, islands, or on the way to experts: lsh-moe, or of microbatches that leave out stages: skippipe. They train otherwise; what is known of their quality "
        "is said.",
    ),
]
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
        "planner choose. Left out, the planner tries more than 1 for a few plans; beside frozen weights (--trainable) as auto.",
    ),
]
OverlapsDispatchOption = Annotated[
    bool, typer.Option("--overlap-dispatch", help="Send tokens to experts beside the compute of another microbatch.")
]
DispatchPiecesOption = Annotated[
    int,
    typer.Option(help="Send the tokens of a layer to their experts in that many pieces, beside the experts' compute."),
]
TokensPerCentroidOption = Annotated[
    int,
    typer.Option(
        help="Send means of that many tokens that hash alike to experts on other ranks, and what each differs by stays (LSH-MoE). It changes the "
        "gradient."
    ),
]
ExpertImbalanceOption = Annotated[
    float,
    typer.Option(help="Say how many times the mean the busiest of the ranks that spread experts gets of their tokens."),
]
HotExpertsOption = Annotated[
    int,
    typer.Option(
        help="Give every rank that many experts of each layer for a step, those with the most tokens, and deal the others by load (Hecate)."
    ),
]
GlobalBalanceOption = Annotated[
    bool,
    typer.Option(
        "--global-balance", help="Balance experts by a loss on routers over all data-parallel ranks of a microbatch."
    ),
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
SequenceChunksOption = Annotated[
    int,
    typer.Option(
        help="Run dense layers in that many pieces of a microbatch's tokens, so that the tensors of one piece are alive beside keys and values; "
        "each piece runs again in the backward."
    ),
]
HighPrecisionLayersOption = Annotated[
    int, typer.Option(help="Keep that many layers out of the lower format of --linear-precision.")
]
ChosenRecomputeModulesOption = Annotated[
    str,
    typer.Option(
        help="Name what selective recompute repeats, joined by +: core_attn, layernorm, mla_up_proj, mlp, moe, moe_act, "
        "shared_experts; auto: let the planner choose. Left out, what the stack repeats, and for a few plans others."
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
