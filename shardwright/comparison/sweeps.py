"""The same comparison over a sweep: of the number of devices, the batch, the sequence length, or the device."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from shardwright.base import SpecError, nearest
from shardwright.reports.plan import Sweep, SweepPoint
from shardwright.specs import ClusterSpec, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

from .side_by_side import Searched, SearchPlan, compare

SweepName = Literal["gpus", "gpus-weak", "global-batch", "seq-len", "device"]
SWEEPS: tuple[SweepName, ...] = get_args(SweepName)
"""What a sweep varies; "gpus-weak" lets the batch grow with the devices."""

_EXAMPLE = "such as gpus=64,128,256"


class Setting(NamedTuple):
    """One place of a sweep: its value, and the cluster and training there."""

    value: int | str
    cluster: ClusterSpec
    training: TrainingSpec


def read_sweep(text: str, number: Callable[[str], int]) -> tuple[SweepName, tuple[int | str, ...]]:
    """Read `gpus=64,128,256`; `number` reads one number.

    Raises:
        SpecError: no such sweep, fewer than two values, or one twice.
    """
    name, _, rest = text.partition("=")
    if name not in SWEEPS:
        raise SpecError(
            f"--sweep {text}: unknown '{name}'; give one of {', '.join(SWEEPS)}, {_EXAMPLE}.{nearest(name, SWEEPS)}"
        )
    words = [word.strip() for word in rest.split(",") if word.strip()]
    values: tuple[int | str, ...] = tuple(words if name == "device" else [number(word) for word in words])
    if len(values) < 2:
        raise SpecError(f"--sweep {text}: a sweep needs two values or more, {_EXAMPLE}")
    for value in values:
        if values.count(value) > 1:
            raise SpecError(f"--sweep {text}: {value} is given twice")
        if isinstance(value, int) and value < 1:
            raise SpecError(f"--sweep {text}: {value} is below 1")
    return name, values


def settings_of(
    name: SweepName,
    values: Sequence[int | str],
    cluster: ClusterSpec,
    training: TrainingSpec,
    clusters: Callable[[str], ClusterSpec],
) -> list[Setting]:
    """Return the places of a sweep around a job; `clusters` reads the short form `device:count`.

    A cluster of a catalog device is read anew with each number of devices. One from a file keeps its nodes and has other numbers of
    them.

    Raises:
        SpecError: a number of devices is no whole number of nodes, a device is unknown, or the batch does not grow to a whole number.
    """
    found = []
    for value in values:
        where, job = cluster, training
        if name in ("gpus", "gpus-weak"):
            where = _with_devices(cluster, int(value), clusters)
        elif name == "device":
            where = clusters(f"{value}:{cluster.devices}")
        else:
            field = {"global-batch": "global_batch", "seq-len": "seq_len"}[name]
            job = training.model_copy(update={field: int(value)})
        if name == "gpus-weak":
            batch, rest = divmod(training.global_batch * int(value), cluster.devices)
            if rest or not batch:
                raise SpecError(
                    f"--sweep {name}: a batch of {training.global_batch} on {cluster.devices} devices grows to no whole number on {value}"
                )
            job = training.model_copy(update={"global_batch": batch})
        found.append(Setting(value, where, job))
    return found


def _with_devices(cluster: ClusterSpec, count: int, clusters: Callable[[str], ClusterSpec]) -> ClusterSpec:
    cluster.check_one_kind()
    group = cluster.groups[0]
    if cluster.name == f"{group.device.name}:{cluster.devices}":
        return clusters(f"{group.device.name}:{count}")
    nodes, rest = divmod(count, group.devices_per_node)
    if rest or not nodes:
        raise SpecError(
            f"{count} devices are no whole number of nodes of {cluster.name}, which have {group.devices_per_node}; give a multiple"
        )
    if nodes > 1 and group.nic is None:
        raise SpecError(
            f"{cluster.name} has no link between nodes; give nic in its file, or at most {group.devices_per_node} devices"
        )
    groups = (group.model_copy(update={"nodes": nodes}),)
    return cluster.model_copy(update={"name": f"{cluster.name} with {count} devices", "groups": groups})


def sweep(
    model: ModelSpec,
    name: SweepName,
    settings: Sequence[Setting],
    *,
    strategies: Sequence[str] | None = None,
    plans: Mapping[str, Plan | Searched] | None = None,
    searches: Mapping[str, SearchPlan] | None = None,
) -> Sweep:
    """Compare the same ways at every setting; arguments as in `compare`.

    Raises:
        SpecError: an unknown strategy.
    """
    return Sweep(
        name=name,
        points=tuple(
            SweepPoint(
                value=setting.value,
                devices=setting.cluster.devices,
                tokens_per_step=setting.training.tokens_per_step,
                comparison=compare(
                    model, setting.cluster, setting.training, strategies=strategies, plans=plans, searches=searches
                ),
            )
            for setting in settings
        ),
    )
