"""The scripts. In each, rank r is device r mod D of machine r div D, as the plan's mesh lies over machines of D devices."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from shardwright.base import SpecError

from .nodes import Nodes

PORT = 29500


def job_name(model_name: str) -> str:
    """Return a name that Slurm and Kubernetes take: lower case letters, digits and dashes."""
    plain = "".join(
        letter if letter.isascii() and letter.isalnum() else "-" for letter in Path(model_name).name.lower()
    )
    return f"shardwright-{'-'.join(filter(None, plain.split('-')))}"[:60].strip("-")


def slurm_script(
    nodes: Nodes, command: Sequence[str], *, name: str, time: str | None = None, partition: str | None = None
) -> str:
    """Return a batch script with one task for each rank. `command` is what each runs; `time` is Slurm's own format."""
    return _written(
        "slurm.sh.j2", nodes=nodes, command=shlex.join(command), name=name, time=time, partition=partition, port=PORT
    )


def kubernetes_job(nodes: Nodes, command: Sequence[str], *, name: str, image: str) -> str:
    """Return a PyTorchJob of Kubeflow's training operator (v1), one pod for each machine. `image` has shardwright[run] in it."""
    return _written(
        "pytorchjob.yaml.j2", nodes=nodes, command=_torchrun(nodes, command), name=name, image=image, port=PORT
    )


def by_hand(nodes: Nodes, command: Sequence[str], *, master: str) -> list[str]:
    """Return the line to type on each machine, of which the first is `master`."""
    return [shlex.join(_torchrun_line(nodes, command, rank, master)) for rank in range(nodes.machines)]


def over_ssh(nodes: Nodes, command: Sequence[str], *, hosts: Sequence[str], folder: str) -> str:
    """Return a script that starts the run in `folder` on `hosts` over ssh, and ends all of it when one machine's part ends.

    Raises:
        SpecError: there are more or fewer hosts than machines.
    """
    if len(hosts) != nodes.machines:
        raise SpecError(
            f"the plan needs {nodes.machines} machines, and {len(hosts)} hosts are named; name {nodes.machines}"
        )
    lines = [f"cd {shlex.quote(folder)} && exec {line}" for line in by_hand(nodes, command, master=hosts[0])]
    return _written("ssh.sh.j2", starts=[(host, shlex.quote(line)) for host, line in zip(hosts, lines, strict=True)])


def _torchrun(nodes: Nodes, command: Sequence[str]) -> list[str]:
    """Arguments of torchrun for a pod, whose environment the operator sets."""
    return ["--nproc-per-node", str(nodes.devices), "-m", *command]


def _torchrun_line(nodes: Nodes, command: Sequence[str], node_rank: int, master: str) -> list[str]:
    place = ["--nnodes", str(nodes.machines), "--node-rank", str(node_rank), "--nproc-per-node", str(nodes.devices)]
    return ["torchrun", *place, "--master-addr", master, "--master-port", str(PORT), "-m", *command]


def _written(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("shardwright.executor.scripts", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # these are no pages; values are quoted for the shell
    )
    return environment.get_template(template).render(**values)
