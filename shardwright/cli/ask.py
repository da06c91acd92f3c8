"""`ask` answers questions about a row of jobs: how long, how large, how many, how dear."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from . import plan as planning
from .options import (
    LENGTHS_HELP,
    GlobalBatchOption,
    SeqLenOption,
    console,
    note_what_profile_lacks,
    print_json,
    read_cluster,
    read_count_option,
    read_model,
    read_training,
    refuse_existing,
)

if TYPE_CHECKING:
    from shardwright.planner.questions import Case
    from shardwright.reports.questions import Answer
    from shardwright.specs import ClusterSpec, TrainingSpec
    from shardwright.specs.model import ModelSpec

app = typer.Typer(
    help="Answer a question by many searches: longest sequence, largest batch or model, fewest GPUs, cost, shape, packing.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_NOT_FOR_QUESTIONS = ("context", "out", "report", "details", "certify", "fastest", "allow_fewer_devices", "phases")
_ALWAYS_NEEDED = {"seq_len": SeqLenOption, "global_batch": GlobalBatchOption}
"""Options that `plan` needs unless the phases of a run state them."""


def read_tokens_option(text: str | float) -> float:
    """Read `--tokens`: `1T`, `300B`."""
    from shardwright.base import SpecError, read_tokens

    try:
        return text if isinstance(text, float) else read_tokens(text)
    except SpecError as error:
        raise typer.BadParameter(str(error)) from None


def read_deadline_option(text: str | float) -> float:
    """Read `--deadline`: `10d`, a date."""
    from shardwright.base import SpecError, read_deadline

    try:
        return text if isinstance(text, float) else read_deadline(text)
    except SpecError as error:
        raise typer.BadParameter(str(error)) from None


TokensOption = Annotated[
    float,
    typer.Option(
        parser=read_tokens_option, metavar="TOKENS", help="Set the tokens to train on: 300B, 1T, 1.5e12 (decimal)."
    ),
]
RequiredLengthsOption = Annotated[str, typer.Option(metavar="LENGTHS", help=LENGTHS_HELP)]
OutOption = Annotated[Path | None, typer.Option(help="Write the plan file of the answer here.")]
ModelOutOption = Annotated[
    Path | None, typer.Option(help="Write the config.json of the answer's model here; plan reads it as MODEL.")
]
ReportOption = Annotated[Path | None, typer.Option(help="Write the answer as an HTML page here, with a chart.")]


class _Asked(NamedTuple):
    """What every question starts from, and where its answer goes."""

    model: "ModelSpec"
    cluster: "ClusterSpec"
    training: "TrainingSpec"
    options: dict[str, Any]
    parameters: dict[str, Any]


def _with_job_options(*left_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of `plan` besides its own: one list, so that both always have the same."""

    def extend(command: Callable[..., None]) -> Callable[..., None]:
        own = [each for each in inspect.signature(command).parameters.values() if each.name != "shared"]
        names = {each.name for each in own}
        shared = [
            each
            for name, each in inspect.signature(planning.plan).parameters.items()
            if name not in (*_NOT_FOR_QUESTIONS, *left_out, *names)
        ]
        shared = [
            each.replace(annotation=_ALWAYS_NEEDED[each.name], default=inspect.Parameter.empty)
            if each.name in _ALWAYS_NEEDED
            else each
            for each in shared
        ]
        every = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*shared[:1], *own, *shared[1:])]
        command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined] # functions may have one (PEP 362)
        command.__annotations__ = {each.name: each.annotation for each in every}
        return command

    return extend


@app.command("longest-sequence")
@_with_job_options("seq_len", "global_batch")
def longest_sequence(
    global_batch: Annotated[
        int | None,
        typer.Option(
            parser=read_count_option, metavar="COUNT", help="Set the sequences of an optimizer step: 512, 4k."
        ),
    ] = None,
    global_batch_tokens: Annotated[
        int | None,
        typer.Option(
            parser=read_count_option,
            metavar="COUNT",
            help="Set the tokens of an optimizer step instead: 4M (1024 x 1024).",
        ),
    ] = None,
    step: Annotated[
        int, typer.Option(parser=read_count_option, metavar="COUNT", help="Try multiples of so many tokens: 1024, 8k.")
    ] = 1024,
    out: OutOption = None,
    report: ReportOption = None,
    **shared: Any,
) -> None:
    """Find the longest sequence that fits, and its plan."""
    from shardwright.base import SpecError
    from shardwright.comparison.answers import case_json, sequence_answer
    from shardwright.planner import questions

    if (global_batch is None) == (global_batch_tokens is None):
        raise SpecError("give either --global-batch (sequences) or --global-batch-tokens, so that the batch is known")
    if step < 1:
        raise SpecError(f"--step is {step}: give a whole number of tokens from 1, such as 1024")
    if global_batch_tokens is not None and global_batch_tokens < 1:
        raise SpecError(f"--global-batch-tokens is {global_batch_tokens}: give a number of tokens from 1, such as 4M")
    asked = _asked(shared, report, out, seq_len=step, global_batch=1 if global_batch is None else global_batch)
    with _working():
        found = questions.longest_sequence(*asked[:3], step=step, batch_tokens=global_batch_tokens, **asked.options)
    following = {"next_value": found.next_value, "next_fails_by": found.next_fails_by}
    data: dict[str, Any] = {"answer": case_json(found.best), **following, "cases": [*map(case_json, found.cases)]}
    _tell(asked, sequence_answer(found, step), {**data, "searches": found.searches}, found.best, out, report)


@app.command("largest-batch")
@_with_job_options()
def largest_batch(
    of: Annotated[
        str,
        typer.Option(
            help="Ask for the largest micro batch of the global batch (micro), or for the largest multiple of the global batch (global)."
        ),
    ] = "micro",
    up_to: Annotated[
        int | None,
        typer.Option(
            parser=read_count_option, metavar="COUNT", help="End global batches here. Default: 64 times --global-batch."
        ),
    ] = None,
    out: OutOption = None,
    report: ReportOption = None,
    **shared: Any,
) -> None:
    """Find the largest batch that fits, and tokens/s by batch."""
    from shardwright.base import SpecError, nearest
    from shardwright.comparison.answers import batch_answer, case_json
    from shardwright.planner import questions

    if of not in ("micro", "global"):
        raise SpecError(f"--of is '{of}': give micro or global.{nearest(of, ('micro', 'global'))}")
    if of == "micro" and up_to is not None:
        raise SpecError("--up-to ends global batches; give --of global with it, or leave it out")
    asked = _asked(shared, report, out)
    with _working():
        if of == "micro":
            found = questions.largest_micro_batch(*asked[:3], **asked.options)
        else:
            found = questions.largest_global_batch(*asked[:3], up_to=up_to, **asked.options)
    following = {"next_value": found.next_value, "next_fails_by": found.next_fails_by}
    data: dict[str, Any] = {"answer": case_json(found.best), **following, "fastest": case_json(found.fastest)}
    data |= {"cases": [*map(case_json, found.cases)], "searches": found.searches}
    _tell(asked, batch_answer(found, micro=of == "micro"), data, found.best, out, report)


@app.command("largest-model")
@_with_job_options()
def largest_model(
    by: Annotated[
        str, typer.Option(help="Grow width and depth alike (both), or one of them alone: depth, width.")
    ] = "both",
    out: OutOption = None,
    model_out: ModelOutOption = None,
    report: ReportOption = None,
    **shared: Any,
) -> None:
    """Find the largest model like MODEL that fits."""
    from typing import cast, get_args

    from shardwright.base import SpecError, nearest
    from shardwright.comparison.answers import case_json, model_answer
    from shardwright.planner import questions

    if by not in get_args(questions.Growth):
        raise SpecError(f"--by is '{by}': give both, depth or width.{nearest(by, get_args(questions.Growth))}")
    growth = cast(questions.Growth, by)
    asked = _asked(shared, report, out, model_out)
    with _working():
        found = questions.largest_model(*asked[:3], by=growth, **asked.options)
    data: dict[str, Any] = {"answer": case_json(found.best), "next_fails_by": found.next_fails_by}
    data |= {"cases": [*map(case_json, found.cases)], "searches": found.searches}
    _tell(asked, model_answer(found, asked.model, growth), data, found.best, out, report, model_out)


@app.command("fewest-gpus")
@_with_job_options()
def fewest_gpus(
    tokens: TokensOption,
    deadline: Annotated[
        float,
        typer.Option(
            parser=read_deadline_option,
            metavar="SPAN",
            help="Set the time for training: 36h, 10d, 2w, or a date in UTC from now, 2027-01-31.",
        ),
    ],
    at_slow_end: Annotated[
        bool, typer.Option("--at-slow-end", help="Meet the deadline at the slow end of the 80% interval.")
    ] = False,
    out: OutOption = None,
    report: ReportOption = None,
    **shared: Any,
) -> None:
    """Find the fewest nodes of the cluster for a deadline."""
    from shardwright.base import InfeasibleError, units
    from shardwright.comparison.answers import deadline_answer, time_json
    from shardwright.planner import questions

    asked = _asked(shared, report, out)
    with _working():
        found = questions.fewest_devices(
            *asked[:3], tokens=tokens, deadline_seconds=deadline, at_slow_end=at_slow_end, **asked.options
        )
    answer = deadline_answer(
        found,
        tokens=tokens,
        deadline_seconds=deadline,
        at_slow_end=at_slow_end,
        most_devices=asked.cluster.devices,
    )
    timed = [time_json(case, questions.token_time(case, tokens)) for case in found.cases]
    place = None if found.best is None else found.cases.index(found.best)
    data: dict[str, Any] = {
        "answer": None if place is None else timed[place],
        "deadline_seconds": deadline,
        "tokens": tokens,
    }
    _tell(asked, answer, {**data, "cases": timed, "searches": found.searches}, found.best, out, report)
    if found.best is None:
        shortest = min(time["seconds_high" if at_slow_end else "seconds"] for time in timed)
        raise InfeasibleError(
            f"no part of {asked.cluster.name} that was tried trains on the tokens in {units.days(deadline)}; the fastest takes "
            f"{units.days(shortest)}; give a later deadline, fewer tokens or a larger --cluster"
        )


@app.command("cost")
@_with_job_options()
def cost(
    tokens: TokensOption,
    price: Annotated[
        float | None, typer.Option(help="Set the money for one device and hour, in any currency: 2.5.")
    ] = None,
    out: OutOption = None,
    report: ReportOption = None,
    **shared: Any,
) -> None:
    """Tell time, money and energy for a number of tokens."""
    import math

    from shardwright.base import SpecError
    from shardwright.comparison.answers import cost_answer, time_json
    from shardwright.planner import questions

    if price is not None and not 0 < price < math.inf:
        raise SpecError(f"--price is {price:g}: give the money for one device and hour, above 0, such as 2.5")
    asked = _asked(shared, report, out)
    with _working():
        found = questions.costs(*asked[:3], tokens=tokens, price=price, **asked.options)
    timed = [time_json(case, time) for case, time in zip(found.cases, found.times, strict=True)]
    data: dict[str, Any] = {"answer": timed[-1], "tokens": tokens, "price_per_device_hour": price, "cases": timed}
    data |= {"pareto": list(found.cheapest_for_their_time), "searches": found.searches}
    _tell(asked, cost_answer(found, tokens=tokens, price=price), data, found.cases[-1], out, report)


@app.command("shape")
@_with_job_options()
def shape(
    out: OutOption = None,
    model_out: ModelOutOption = None,
    report: ReportOption = None,
    **shared: Any,
) -> None:
    """Compare widths and depths of MODEL's size."""
    from shardwright.comparison.answers import case_json, shape_answer
    from shardwright.planner import questions

    asked = _asked(shared, report, out, model_out)
    with _working():
        found = questions.shapes(*asked[:3], **asked.options)
    data: dict[str, Any] = {
        "answer": case_json(found.fastest),
        "given": case_json(found.given) if found.given else None,
    }
    data |= {"cases": [*map(case_json, found.cases)], "refused": found.refused, "searches": found.searches}
    _tell(asked, shape_answer(found, asked.model), data, found.fastest, out, report, model_out)


@app.command("packing")
@_with_job_options("packing")
def packing(
    lengths: RequiredLengthsOption,
    out: OutOption = None,
    report: ReportOption = None,
    **shared: Any,
) -> None:
    """Compare packing, padding and buckets for documents."""
    from shardwright.comparison.answers import packing_answer, packing_json
    from shardwright.planner import questions

    asked = _asked({**shared, "lengths": lengths, "packing": ""}, report, out)
    with _working():
        found = questions.packings(*asked[:3], **asked.options)
    answer = packing_answer(found, asked.model, asked.training)
    best = {"packed": found.packed, "padded": found.padded}.get(found.fastest)
    if out and best is None:
        from shardwright.base import SpecError

        raise SpecError(f"{out}: buckets are several plans, and a plan file holds one; --json has them all")
    _tell(asked, answer, packing_json(found), best, out, report)


def _asked(parameters: dict[str, Any], report: Path | None, *outputs: Path | None, **training: int) -> _Asked:
    """Read the job and what its plans must keep, as `plan` does. `training` fills in options that the question lacks.

    Raises:
        SpecError: an option has a value that is not allowed, or an output file exists.
    """
    from shardwright.base import SpecError
    from shardwright.jobs import read_may_choose
    from shardwright.planner.space import asked

    limit, profile = parameters["time_limit"], parameters["profile"]
    if not limit > 0:
        raise SpecError(f"--time-limit is {limit}: give a number of seconds above 0")
    refuse_existing(report, *outputs, force=parameters["force"], inputs=[profile] if profile else [])
    closed, may_choose = read_may_choose({**parameters, **training})
    fixed = asked(parameters, fix=parameters["fix"] or (), forbid=parameters["forbid"] or ())
    reserves = parameters["memory_reserve"], parameters["host_memory_reserve"]
    cluster = read_cluster(parameters["cluster"], profile, *reserves, safe=True)
    model = read_model(parameters["model"])
    spec = read_training(closed, model, cluster)
    note_what_profile_lacks(model, cluster, spec)
    options = {"fixed": fixed, "may_choose": may_choose, "time_limit_seconds": limit}
    return _Asked(model, cluster, spec, options, parameters)


def _working() -> Any:
    """A line on stderr while searches run, where that is a terminal."""
    from rich.console import Console

    return Console(stderr=True).status("searching")


def _tell(
    asked: _Asked,
    answer: "Answer",
    data: dict[str, Any],
    best: "Case | None",
    out: Path | None,
    report: Path | None,
    model_out: Path | None = None,
) -> None:
    """Print the answer and write its files."""
    import json

    from shardwright.base import write_whole
    from shardwright.costmodel import PlanFile, write_plan_file
    from shardwright.reports.questions import answer_table, write_answer_report

    written = []
    if report:
        write_answer_report(report, answer)
        written.append(report)
    if model_out and best:
        write_whole(model_out, json.dumps(best.model.config, indent=1, allow_nan=False) + "\n")
        written.append(model_out)
    if out and best:
        plan_file = PlanFile(
            model_name=best.model.name,
            model_config_json=best.model.config,
            cluster=best.cluster,
            training=best.training,
            plan=best.plan,
            estimate=best.estimate,
        )
        write_plan_file(out, plan_file)
        written.append(out)
    if asked.parameters["as_json"]:
        print_json(data)
        return
    console().print(answer_table(answer))
    if written:
        typer.echo(f"wrote {', '.join(map(str, written))}")
