"""`launch` writes what starts a run on several machines, and says how to use it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import ForceOption, read_plans
from .run import run

_HOW = {
    "slurm": "submit it with: sbatch {path}",
    "kubernetes": "submit it with: kubectl apply -f {path}",
    "ssh": "start it with: bash {path}",
}


def launch(
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN", help="Name a plan file, as written by 'shardwright plan --out'.")
    ],
    run_options: Annotated[
        list[str] | None, typer.Argument(metavar="RUN_OPTIONS", help="Give options of 'shardwright run', after --.")
    ] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="Write a batch script for Slurm.")] = False,
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="Write a PyTorchJob of Kubeflow.")] = False,
    ssh: Annotated[
        Path | None, typer.Option(help="Write a script for the hosts in this file, one in each line.")
    ] = None,
    torchrun: Annotated[bool, typer.Option("--torchrun", help="Print the line to type on each machine.")] = False,
    to: Annotated[Path | None, typer.Option(help="Write the script into this file.")] = None,
    image: Annotated[str | None, typer.Option(help="Name the container image that has shardwright[run].")] = None,
    time: Annotated[str | None, typer.Option(help="Set Slurm's time limit: 24:00:00, 2-00:00:00.")] = None,
    partition: Annotated[str | None, typer.Option(help="Name the partition of Slurm.")] = None,
    master: Annotated[str, typer.Option(help="Name the first machine, for --torchrun.")] = "MACHINE0",
    force: ForceOption = False,
) -> None:
    """Write what starts a run of a plan on several machines: a script for Slurm, Kubernetes or ssh, or lines for torchrun."""
    from shardwright.base import SpecError, write_whole
    from shardwright.executor.scripts import by_hand, job_name, kubernetes_job, nodes_of, over_ssh, slurm_script

    ways = {"slurm": slurm, "kubernetes": kubernetes, "ssh": ssh is not None, "torchrun": torchrun}
    chosen = [way for way, is_chosen in ways.items() if is_chosen]
    if len(chosen) != 1:
        raise SpecError(
            f"choose one of --slurm, --kubernetes, --ssh HOSTS and --torchrun, not {' and '.join(chosen) or 'none'}"
        )
    _check_belongs(
        chosen[0], {"--image": (image, "kubernetes"), "--time": (time, "slurm"), "--partition": (partition, "slurm")}
    )
    plans = read_plans(plan)
    plan_file, nodes = plans[0], nodes_of(plans[0])
    command = ["shardwright", "run", str(plan), *(run_options or [])]
    _check_run_options(command[2:], phases=len(plans) > 1)
    name = job_name(plan_file.model_name)
    if torchrun:
        for line in by_hand(nodes, command, master=master):
            typer.echo(line)
        return
    if slurm:
        written = slurm_script(nodes, command, name=name, time=time, partition=partition)
    elif kubernetes:
        if image is None:
            raise SpecError("--kubernetes needs a container image that has shardwright[run]; give --image")
        written = kubernetes_job(nodes, command, name=name, image=image)
    else:
        assert ssh is not None
        written = over_ssh(nodes, command, hosts=_hosts(ssh), folder=str(Path.cwd()))
    path = to or Path(f"{name}.{'yaml' if kubernetes else 'sh'}")
    if path.exists() and not force:
        raise SpecError(f"{path}: exists; give another --to, or --force")
    write_whole(path, written)
    devices = "rank" if nodes.devices == 1 else "ranks"
    typer.echo(
        f"wrote {path}: {nodes.machines} machines with {nodes.devices} {devices} each, placed as the plan's mesh says"
    )
    typer.echo(_HOW[chosen[0]].format(path=path))
    typer.echo("plan, data and the run's folder (run --out) must be there under the same paths on every machine")


def _check_belongs(way: str, options: dict[str, tuple[str | None, str]]) -> None:
    from shardwright.base import SpecError

    for option, (value, of_way) in options.items():
        if value is not None and way != of_way:
            raise SpecError(f"{option} is for --{of_way}, not --{way}; leave it out")


_NOT_OF_PHASES = ("steps", "until_tokens", "replan")


def _check_run_options(arguments: list[str], *, phases: bool) -> None:
    """Parse the options of `run` as `run` does, so that a misspelled one is found before the job starts, and one that phases do not have.

    Raises:
        SpecError: such an option is given.
    """
    from shardwright.base import SpecError

    app = typer.Typer(add_completion=False)
    app.command()(run)
    parser: Any = typer.main.get_command(app)
    given = parser.make_context("shardwright run", [*arguments]).params
    for name in _NOT_OF_PHASES:
        if phases and given[name]:
            raise SpecError(
                f"{arguments[0]}: its phases have steps and plans of their own; leave out --{name.replace('_', '-')}"
            )


def _hosts(path: Path) -> list[str]:
    from shardwright.base import SpecError, read_text

    hosts = [line.split("#")[0].strip() for line in read_text(path).splitlines()]
    hosts = [host for host in hosts if host]
    for host in hosts:
        if (
            host.startswith("-")
            or not host.replace("-", "").replace(".", "").replace("@", "").replace("_", "").isalnum()
        ):
            raise SpecError(f"{path}: '{host}' is no name of a host; write one host in each line, as node0 or me@node0")
    return hosts
