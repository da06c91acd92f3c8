"""Attach a profile to a cluster; it must be of the cluster's own kind of device."""

from shardwright.base import SpecError
from shardwright.specs import ClusterSpec, Format, MachineFingerprint, NodeGroup, Profile, TrainingSpec
from shardwright.specs.model import MixtureOfExperts, ModelSpec

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


def what_profile_lacks(cluster: ClusterSpec, training: TrainingSpec, model: ModelSpec | None = None) -> str | None:
    """What this training, of `model` if it is given, needs, the cluster's profile lacks, and the catalog therefore supplies;
    and whether its matmuls were only measured in short bursts, on a device whose clock falls under load.

    None without a profile, or if it lacks nothing.
    """
    if cluster.is_mixed:
        alone = (what_profile_lacks(cluster.alone(index), training, model) for index in range(len(cluster.groups)))
        return " ".join(sentence for sentence in alone if sentence) or None
    profile = cluster.node.profile
    if profile is None:
        return None
    held = {(series.operation, series.format) for series in profile.series if series.points}
    compute, parameters = training.precision.compute, training.precision.parameters
    plain = _activations(training)
    needed = {
        f"matmul in {compute}": ("matmul", compute) in held,
        **_experts(profile, training, model),
        **_low_precision(profile, training),
        f"attention in {plain}": training.attention != "flash" or ("attention", plain) in held,
        f"memory-bound operators in {plain}": ("addition", plain) in held,  # every layer has residuals to add
        f"{training.optimizer} in {parameters}": (training.optimizer, parameters) in held,
        "collectives": cluster.devices == 1 or any(operation == "all_reduce" for operation, _ in held),
        **_beside_collectives(profile, cluster),
    }
    lacking = [what for what, there in needed.items() if not there]
    sentences = []
    if lacking:
        formats = sorted(format for operation, format in held if operation == "matmul" and format)
        has = f" (its matmuls are in {', '.join(formats)})" if f"matmul in {compute}" in lacking and formats else ""
        sentences.append(f"The profile holds no {', no '.join(lacking)}{has}; the catalog's figures replace them.")
    if ("matmul", compute) in held and _only_short_bursts(profile, cluster):
        sentences.append("Its matmuls were measured in short bursts; measure their sustained rate with --sustained 30.")
    return " ".join(sentences) or None


def _activations(training: TrainingSpec) -> Format:
    """Format outside matmuls. tf32 is a way to multiply fp32 matrices."""
    compute = training.precision.compute
    return "fp32" if compute == "tf32" else compute


def _experts(profile: Profile, training: TrainingSpec, model: ModelSpec | None) -> dict[str, bool]:
    """Whether the matmuls of experts are there as the software runs them; nothing for a dense model."""
    if model is None or not any(isinstance(block.ffn, MixtureOfExperts) for block in model.layer_classes):
        return {}
    precision = training.precision
    format: Format = "fp8" if precision.linear else precision.compute
    way = "looped" if training.software.loops_over_experts else "grouped"
    there = precision.linear in (None, "fp8") and profile.find("matmul", f"{way}_forward", format) is not None
    return {f"{way} matmul of experts in {precision.linear or precision.compute}": there}


def _low_precision(profile: Profile, training: TrainingSpec) -> dict[str, bool]:
    """Whether the matmuls and casts of a lower format are there; nothing where weight matmuls are in the compute format."""
    low = training.precision.linear
    if low is None:
        return {}
    variant = f"{low.removesuffix('-gw-hp')}{'-compiled' * training.software.fuses_casts}"
    return {
        f"matmul in {low}": low == "fp8"
        and any(each.operation == "matmul" and each.format == "fp8" for each in profile.series),
        f"cast to {variant}": profile.find("cast", variant, _activations(training)) is not None,
    }


def _beside_collectives(profile: Profile, cluster: ClusterSpec) -> dict[str, bool]:
    """Whether it says what compute loses to collectives; nothing for one device, or for a CPU, which hides none."""
    if cluster.devices == 1 or not cluster.node.device.computes_beside_traffic:
        return {}
    return {"share of compute that collectives take": "compute_slowdown_beside_collective" in profile.figures}


def _only_short_bursts(profile: Profile, cluster: ClusterSpec) -> bool:
    device = cluster.node.device
    slows_down = device.kind == "gpu" and device.since_hopper and not device.keeps_clock
    return slows_down and "sustained_matmul_share" not in profile.figures
