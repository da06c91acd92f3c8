"""`profile` measures this machine; `profile show` and `profile diff` read profiles."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from .options import ForceOption, JsonOption, console, print_json, read_count_option, refuse_existing

if TYPE_CHECKING:
    from shardwright.profiler import MeasuredProfile
    from shardwright.profiler.session import Progress
    from shardwright.specs import Profile


class _Commands(TyperGroup):
    """`show` and `diff`. A file's name in their place gets an error that names `show`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        word = args[0] if args else ""
        if word not in self.commands and (word.endswith(".json") or Path(word).is_file()):
            from shardwright.base import SpecError

            raise SpecError(
                f"'profile {word}' names a file where a command belongs; show it: shardwright profile show {word}"
            )
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=_Commands, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

ProfileArgument = Annotated[
    Path, typer.Argument(metavar="PROFILE", help="Name a profile file, as written by 'shardwright profile'.")
]


@app.callback(invoke_without_command=True)
def measure(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option(help="Write the profile here. Default: where 'local' and 'profile show' look.")
    ] = None,
    budget: Annotated[float, typer.Option(help="Measure for this many seconds.")] = 180.0,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure this format: fp32, tf32, fp16, bf16, fp8; repeat for several. Default: bf16 and fp32 on a CPU, "
            "bf16, tf32 and fp8 on a GPU."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Also measure this model's shapes, and check the sum of operators on its layers."),
    ] = None,
    seq_len: Annotated[
        int | None,
        typer.Option(
            parser=read_count_option, metavar="COUNT", help="Set the tokens of the model's sequences: 8192, 8k."
        ),
    ] = None,
    micro_batch: Annotated[
        int,
        typer.Option(
            parser=read_count_option, metavar="COUNT", help="Set the sequences that the model computes at once."
        ),
    ] = 1,
    ranks: Annotated[
        int | None, typer.Option(help="Measure with this many processes at once, as in local:N. Default: as local.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure only this: matmul, attention, operators, casts, optimizer, copies, disk, collectives, figures, "
            "layers, or one operation; separate several by commas."
        ),
    ] = None,
    disk: Annotated[Path | None, typer.Option(help="Measure the disk of this folder as well.")] = None,
    sustained: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Repeat one large matmul for this long to measure its sustained rate. Default: a few seconds on a GPU.",
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over instead of continuing an interrupted run.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure this machine into a profile for predictions; under torchrun or srun measure all ranks at once.

    An interrupted run continues when it is started again with the same options.
    """
    from shardwright.base import SpecError
    from shardwright.profiler import ProfileOptions, read_formats

    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    if not 0 < budget < float("inf"):
        raise SpecError(f"--budget is {budget:g}: give a number of seconds above 0, such as 180")
    options = ProfileOptions.parse(
        {
            "budget_seconds": budget,
            "formats": read_formats(precision),
            "model": model,
            "seq_len": seq_len,
            "micro_batch": micro_batch,
            "only": only or (),
            "disk": disk,
            "sustained_seconds": sustained,
            "fresh": fresh,
        },
        source="profile options",
    )
    options.model_spec()  # raises for an unknown name before torch starts
    unfinished = out is not None and out.with_name(f".{out.name}.journal").exists()
    refuse_existing(out, force=force or unfinished)
    from shardwright.profiler import run_profile

    with _progress(quiet=quiet) as tell:
        found = run_profile(options, out=out, ranks=ranks, show=tell)
    if found.leads:
        _report(found, as_json=as_json)


def _refuse_options(context: typer.Context) -> None:
    """Refuse options of measuring before `show` or `diff`, which would ignore them.

    Raises:
        SpecError: such an option is given.
    """
    from shardwright.base import SpecError

    given = [name for name in context.params if _is_given(context, name)]
    if given:
        option = {"as_json": "--json"}.get(given[0], f"--{given[0].replace('_', '-')}")
        command = context.invoked_subcommand
        raise SpecError(f"{option} before '{command}' is an option of measuring; put it after '{command}'")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@contextmanager
def _progress(*, quiet: bool) -> "Iterator[Callable[[Progress], None]]":
    """Show a bar on stderr: what is measured now, how many points of those known, and what is left of the budget."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("points, {task.fields[left]} s left", markup=False),
    )
    bar = Bar(*columns, console=Console(stderr=True), transient=True, disable=quiet)
    task = bar.add_task("starting", total=None, left="-")

    def tell(progress: "Progress") -> None:
        bar.start()  # only once there is something to show, so that a refusal is the only line
        left = f"{max(progress.seconds_left, 0):.0f}"
        bar.update(task, description=progress.now, completed=progress.done, total=progress.known, left=left)

    try:
        yield tell
    finally:
        if bar.live.is_started:
            bar.stop()


def _report(found: "MeasuredProfile", *, as_json: bool) -> None:
    """Print what was measured in short, and where it is. For an interrupted run also print why, on stderr."""
    if as_json:
        from shardwright.reports.profile import profile_json

        print_json({"file": str(found.path), "stopped": found.stopped, **profile_json(found.profile)})
    else:
        from shardwright.reports.profile import summary_table

        console().print(summary_table(found.profile, title=str(found.path)))
        if found.stopped is None:
            typer.echo(f"wrote {found.path}; see all of it: shardwright profile show {found.path}")
    if found.stopped is not None:
        typer.echo(f"error: {found.stopped}", err=True)
        raise SystemExit(1 if found.signal_number is None else 128 + found.signal_number)


@app.command()
def show(
    profile: Annotated[
        Path | None,
        typer.Argument(metavar="[PROFILE]", help="Name a profile file. Default: the newest that fits this machine."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write everything as an HTML page here, with charts.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show a profile: rates, fits, figures, and the machine that they were measured on."""
    refuse_existing(report, force=force, inputs=[profile] if profile else [])
    path, found = _read(profile)
    written: list[Path] = []
    if report:
        from shardwright.reports.profile import write_profile_report

        write_profile_report(report, found, name=path.name)
        written.append(report)
    if as_json:
        from shardwright.reports.profile import profile_json

        print_json({"file": str(path), **profile_json(found)})
        return
    from shardwright.reports.profile import profile_tables

    console().print(profile_tables(found, title=str(path)))
    for file in written:
        typer.echo(f"wrote {file}")


@app.command()
def diff(a: ProfileArgument, b: ProfileArgument, as_json: JsonOption = False) -> None:
    """Compare two profiles: what differs by more than the noise of both."""
    from shardwright.reports.profile import compare_profiles
    from shardwright.specs import read_profile

    found = compare_profiles(read_profile(a), read_profile(b))
    if as_json:
        print_json({"a": str(a), "b": str(b), **found.to_json()})
        return
    from shardwright.reports.profile import diff_tables

    name_a, name_b = (a.name, b.name) if a.name != b.name else (str(a), str(b))
    console().print(diff_tables(found, a=name_a, b=name_b))


def _read(path: Path | None) -> "tuple[Path, Profile]":
    """The profile in the file, or the newest that fits this machine.

    Raises:
        SpecError: the file is no profile file; no profile fits.
    """
    from shardwright.base import SpecError
    from shardwright.specs import read_profile

    if path:
        return path, read_profile(path)
    from shardwright.profiler.machine import newest_of_this_machine, store_folder

    found = newest_of_this_machine()
    if found is None:
        raise SpecError(
            f"no profile in {store_folder()} fits this machine; measure one with 'shardwright profile', or name a file"
        )
    return found
