"""What the estimate rests on: facts of the cluster with their sources, and where the other numbers come from."""

from shardwright.base import units as readable
from shardwright.specs import ClusterSpec, Device, DeviceFormat, NodeGroup

BASIS_COLUMNS = ("what", "value", "source")


def basis_rows(cluster: ClusterSpec, compute_format: DeviceFormat) -> list[tuple[str, str, str]]:
    """Every figure of the cluster that the estimate uses, with its source."""
    rows = [row for group in cluster.groups for row in _group_rows(group, compute_format)]
    if cluster.oversubscription > 1:
        rows.append(("oversubscription of the fabric", f"{cluster.oversubscription:g} to 1", "given by the user"))
    if cluster.between is not None:
        rows.append(("link between groups", _rate(cluster.between.bytes_per_s), cluster.between.source))
    return rows


def _group_rows(group: NodeGroup, compute_format: DeviceFormat) -> list[tuple[str, str, str]]:
    device, host, profile = group.device, group.host, group.profile
    rows = [
        (
            f"{device.name}, {compute_format} peak",
            readable.amount(device.peak_flops_per_s[compute_format], "FLOP/s"),
            _source(device, "peak_flops_per_s"),
        ),
        (f"{device.name}, memory", readable.size(device.memory_bytes), _source(device, "memory_bytes")),
        (f"{device.name}, memory rate", _rate(device.memory_bytes_per_s), _source(device, "memory_bytes_per_s")),
    ]
    if group.devices_per_node > 1:
        what = f"{group.intra_node.kind} between {group.devices_per_node} devices of a node"
        rows.append((what, _rate(group.intra_node.bytes_per_s), group.intra_node.source))
    if group.nic is not None and group.nodes > 1:
        rows.append(
            (
                f"{group.nics_per_node} NICs a node ({group.nic.kind}), each",
                _rate(group.nic.bytes_per_s),
                group.nic.source,
            )
        )
    if device.has_own_memory:
        what = f"host of {group.devices_per_host} devices"
        rows.append((what, f"{readable.number(host.cores)} cores, {readable.size(host.memory_bytes)}", host.source))
        rows.append(("link of a device to its host", _rate(group.host_link.bytes_per_s), group.host_link.source))
    if profile is not None:
        measured = f"profile of {profile.fingerprint.device}, {profile.fingerprint.date[:10]}"
        rows.append(("rates of matmuls, attention, operators, collectives", "measured", measured))
    return rows


def _source(device: Device, figure: str) -> str:
    return device.sources.get(figure, "given by the user")


def _rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:,.1f} GB/s".replace(".0 GB", " GB")
