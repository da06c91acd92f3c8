"""`profile` measures this machine; `profile show` and `profile diff` read what was measured."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import ForceOption, JsonOption, console, print_json, refuse_existing

if TYPE_CHECKING:
    from shardwright.costmodel.profile import Profile

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

ProfileArgument = Annotated[Path, typer.Argument(metavar="PROFILE", help="A profile file, from 'shardwright profile'.")]


@app.command()
def show(
    profile: Annotated[
        Path | None,
        typer.Argument(metavar="[PROFILE]", help="A profile file. Default: the newest that fits this machine."),
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Write its figures as PNG into this folder.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write all of it as an HTML page here.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show a profile: rates, fits, figures, and on what they were measured."""
    from shardwright.costmodel import SpecError

    refuse_existing(report, force=force, inputs=[profile] if profile else [])
    if plots and plots.exists() and not plots.is_dir():
        raise SpecError(f"{plots}: is a file; name a folder for the figures")
    path, found = _read(profile)
    written: list[Path] = []
    if plots:
        from shardwright.benchmarks.profile_plots import write_profile_plots

        written += write_profile_plots(plots, found)
    if report:
        from shardwright.benchmarks.profile_report import write_profile_report

        write_profile_report(report, found, name=path.name)
        written.append(report)
    if as_json:
        from shardwright.benchmarks.profile_report import profile_json

        print_json({"file": str(path), **profile_json(found)})
        return
    from shardwright.benchmarks.profile_tables import profile_tables

    console().print(profile_tables(found, title=str(path)))
    for file in written:
        typer.echo(f"wrote {file}")


@app.command()
def diff(a: ProfileArgument, b: ProfileArgument, as_json: JsonOption = False) -> None:
    """Lay two profiles side by side: what differs by more than the noise of both."""
    from shardwright.benchmarks.profile_diff import compare_profiles
    from shardwright.costmodel.profile import read_profile

    found = compare_profiles(read_profile(a), read_profile(b))
    if as_json:
        print_json({"a": str(a), "b": str(b), **found.to_json()})
        return
    from shardwright.benchmarks.profile_diff_table import diff_tables

    name_a, name_b = (a.name, b.name) if a.name != b.name else (str(a), str(b))
    console().print(diff_tables(found, a=name_a, b=name_b))


def _read(path: Path | None) -> "tuple[Path, Profile]":
    """The profile in the file, or the newest that fits this machine.

    Raises:
        SpecError: not a profile file; none that fits.
    """
    from shardwright.costmodel import SpecError
    from shardwright.costmodel.profile import read_profile

    if path:
        return path, read_profile(path)
    from shardwright.profiler.local import newest_of_this_machine
    from shardwright.profiler.store import store_folder

    found = newest_of_this_machine()
    if found is None:
        raise SpecError(
            f"no profile in {store_folder()} fits this machine; measure one with 'shardwright profile', or name a file"
        )
    return found
