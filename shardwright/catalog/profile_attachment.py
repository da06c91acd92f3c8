"""Attach a profile to a cluster; it must be of the cluster's own kind of device."""

from shardwright.base import SpecError
from shardwright.specs import ClusterSpec, MachineFingerprint, NodeGroup, Profile, TrainingSpec

from . import devices as catalog


def with_profile(cluster: ClusterSpec, profile: Profile, *, source: str) -> ClusterSpec:
    """The cluster with `profile` attached; `source` is the file's name, for errors.

    Raises:
        SpecError: the profile was measured on another device, or on a CPU shared by another number of ranks.
    """
    check_fits(profile.fingerprint, cluster.node, source=source)
    groups = tuple(group.model_copy(update={"profile": profile}) for group in cluster.groups)
    return cluster.model_copy(update={"groups": groups})


def check_fits(mark: MachineFingerprint, group: NodeGroup, *, source: str) -> None:
    """Raises:
    SpecError: `mark` is of another device than the group's, naming both; or of a CPU shared by another number of ranks.
    """
    ranks, device = mark.ranks // mark.nodes, group.device
    known = catalog.device_measured(mark)
    shared = shared_cpu_name(mark.device, mark.threads, mark.cores) if mark.shared_by_ranks else mark.device
    if mark.kind != device.kind or device.name.casefold() not in {known, mark.device.casefold(), shared.casefold()}:
        own = f"local:{ranks}" if mark.shared_by_ranks else f"{known}:{mark.ranks}" if known else None
        mend = f"give --cluster {own}, or" if own else "give"
        raise SpecError(
            f"{source}: was measured on {shared}{f' ({known} in the catalog)' if known else ''}, the cluster's device is "
            f"{device.name}; {mend} a profile of {device.name}"
        )
    if mark.shared_by_ranks and ranks != group.devices_per_node:
        raise SpecError(
            f"{source}: was measured by {_ranks(ranks)} of a CPU at once, the cluster has {_ranks(group.devices_per_node)}; "
            f"give --cluster local:{ranks}, or measure with 'shardwright profile --ranks {group.devices_per_node}'"
        )


def _ranks(count: int) -> str:
    return f"{count} rank{'s' * (count > 1)}"


def shared_cpu_name(cpu: str, threads: int, cores: int) -> str:
    """The device name of one rank of a CPU host."""
    return f"{cpu}, {threads} of {cores} cores"


def what_profile_lacks(cluster: ClusterSpec, training: TrainingSpec) -> str | None:
    """One sentence: what this training needs, the cluster's profile lacks, and the catalog therefore supplies.

    None without a profile, or if it lacks nothing.
    """
    profile = cluster.node.profile
    if profile is None:
        return None
    held = {(series.operation, series.format) for series in profile.series if series.points}
    compute, parameters = training.precision.compute, training.precision.parameters
    plain = "fp32" if compute == "tf32" else compute  # tf32 is a way to multiply fp32 matrices
    needed = {
        f"matmul in {compute}": ("matmul", compute) in held,
        f"attention in {plain}": training.attention != "flash" or ("attention", plain) in held,
        f"memory-bound operators in {plain}": ("addition", plain) in held,  # every layer has residuals to add
        f"{training.optimizer} in {parameters}": (training.optimizer, parameters) in held,
        "collectives": cluster.devices == 1 or any(operation == "all_reduce" for operation, _ in held),
    }
    lacking = [what for what, there in needed.items() if not there]
    if not lacking:
        return None
    formats = sorted(format for operation, format in held if operation == "matmul" and format)
    has = f" (its matmuls are in {', '.join(formats)})" if f"matmul in {compute}" in lacking and formats else ""
    return f"The profile holds no {', no '.join(lacking)}{has}; the catalog's figures replace them."
