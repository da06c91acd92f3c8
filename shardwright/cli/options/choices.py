"""Options of `plan` for the choices of a plan and for the search."""

from typing import Annotated

import typer

_SEVERAL = "A range 2..8, 2.. or ..8, or a list 1,2,8, limits it."

PpOption = Annotated[str | None, typer.Option(help=f"Fix the pipeline degree. {_SEVERAL}")]
TpOption = Annotated[str | None, typer.Option(help=f"Fix the tensor-parallel degree. {_SEVERAL}")]
DpReplicateOption = Annotated[str | None, typer.Option(help=f"Fix the number of replicas (HSDP). {_SEVERAL}")]
DpShardOption = Annotated[str | None, typer.Option(help=f"Fix the degree of ZeRO sharding. {_SEVERAL}")]
CpOption = Annotated[str | None, typer.Option(help=f"Fix the context-parallel degree. {_SEVERAL}")]
EpOption = Annotated[str | None, typer.Option(help=f"Fix the expert-parallel degree. {_SEVERAL}")]
EtpOption = Annotated[
    str | None, typer.Option(help=f"Fix how many ranks split each expert; 0: what ep leaves of tp. {_SEVERAL}")
]
OrderOption = Annotated[
    str | None,
    typer.Option(help="Fix the order of the axes over the machine, innermost first: tp-cp-dp-pp, tp-cp-pp-dp."),
]
ContextParallelOption = Annotated[
    str | None,
    typer.Option(
        help="Fix how cp exchanges keys and values: all-gather, ring, ulysses, ulysses-ring; or list several."
    ),
]
UlyssesDegreeOption = Annotated[
    str | None, typer.Option(help=f"Fix how many ranks of cp trade heads in ulysses-ring. {_SEVERAL}")
]
ExpertDispatchOption = Annotated[
    str | None, typer.Option(help="Fix how ep sends tokens: all-to-all, deduplicated; or list several.")
]
ZeroStageOption = Annotated[str | None, typer.Option(help=f"Fix the ZeRO stage: 0, 1, 2 or 3. {_SEVERAL}")]
MicroBatchOption = Annotated[str | None, typer.Option(help=f"Fix the sequences of a microbatch. {_SEVERAL}")]
ScheduleOption = Annotated[
    str | None,
    typer.Option(
        help="Fix the schedule: gpipe, 1f1b, interleaved-1f1b, breadth-first, zb-h1, zb-2p, zb-v, v-half, v-min, dualpipe-v; or list several."
    ),
]
VocabularyParallelOption = Annotated[
    str | None,
    typer.Option(
        help="Fix how the ranks of a pipeline share embedding and head: none, vocab-1, vocab-2; or list several."
    ),
]
StagesPerRankOption = Annotated[str | None, typer.Option(help=f"Fix the pipeline chunks of a rank. {_SEVERAL}")]
RecomputeOption = Annotated[
    str | None,
    typer.Option(help="Fix recompute in all layers: none, selective, full; or list what each layer may use."),
]
OffloadOptimizerOption = Annotated[
    str | None,
    typer.Option(
        help="Fix the share of the optimizer on the host: 0, 1 or between. A range 0..1 or a list 0,0.5,1 limits it; then eighths "
        "are searched."
    ),
]
OffloadActivationsOption = Annotated[
    str | None,
    typer.Option(
        help="Fix the share of every layer's tokens whose activations go to the host; a range 0..1 or a list 0,0.5 lets each layer "
        "take one. Left out, activations stay on the device."
    ),
]
OffloadGradientsOption = Annotated[
    str | None,
    typer.Option(
        help="Fix the share of the gradients that the host keeps between microbatches, or open a range 0..1: one data-parallel rank."
    ),
]
OffloadParametersOption = Annotated[
    str | None,
    typer.Option(
        help="Fix the share of the layers whose weights come from the host for each pass; a range 0..1 is used where nothing else fits."
    ),
]
OffloadNvmeOption = Annotated[
    str | None,
    typer.Option(
        help="Fix the share of the host's optimizer state that is on its drives; a range 0..1 is used where nothing else fits."
    ),
]
DelayedUpdateOption = Annotated[
    bool | None,
    typer.Option(
        "--delayed-update",
        help="Let the host update its share beside the passes of the next step, which read its parameters as before: one step late.",
    ),
]
OffloadOption = Annotated[
    bool,
    typer.Option(
        "--offload",
        help="Let the planner move any share of optimizer, gradients, activations and weights off the device.",
    ),
]
SyncOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[:NAME=NUMBER,...]",
        help="Fix how replicas agree: exact, 8-bit-gradients, 1-bit-adam, co2, diloco, streaming-diloco or islands, with other numbers "
        "after a colon (diloco:inner_steps=100,bits=8). All but exact change the gradient.",
    ),
]
FixOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Fix a choice as the option of that name does; repeat for several."),
]
ForbidOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Keep an axis at 1 (cp), do without a choice (recompute, offload_optimizer) or a value "
        "(interleaved-1f1b, zero_stage=3); repeat, or separate with commas.",
    ),
]
EvenStagesOption = Annotated[
    bool | None, typer.Option("--even-stages", help="Give every stage the same number of layers.")
]
SequenceParallelOption = Annotated[
    bool | None, typer.Option(help="Fix whether tensor parallelism also splits along the sequence.")
]
TimeLimitOption = Annotated[float, typer.Option(help="Stop the search after these seconds, with the best plan so far.")]
AvoidOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DEVICE[:COUNT]|between|nic",
        help="Leave out all groups of a device, or COUNT of them in whole nodes, or the links between groups or nodes; repeat.",
    ),
]
AllowFewerDevicesOption = Annotated[
    bool,
    typer.Option("--allow-fewer-devices", help="Plan for a part of the cluster where that is faster by 2% or more."),
]
FastestOption = Annotated[
    bool, typer.Option("--fastest", help="Take the fastest plan, not a simpler one that takes up to 2% longer.")
]
CertifyOption = Annotated[bool, typer.Option("--certify", help="Prove the stages with integer programs.")]
