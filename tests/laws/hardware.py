"""The same cluster with some of its hardware faster."""

from typing import Literal, get_args

from shardwright.specs.cluster import ClusterSpec, Link
from shardwright.specs.device import Device

Part = Literal["peak", "memory bandwidth", "launches", "fabric", "node link", "host link", "host memory bandwidth"]
PARTS: tuple[Part, ...] = get_args(Part)
COMPUTE: tuple[Part, ...] = ("peak", "memory bandwidth", "launches", "host memory bandwidth")
NETWORK: tuple[Part, ...] = ("fabric", "node link")
COPIES: tuple[Part, ...] = ("host link",)


def faster(cluster: ClusterSpec, *parts: Part, times: float = 2.0) -> ClusterSpec:
    """`cluster` with the rates of `parts` multiplied by `times` and their latencies divided by it."""
    group = cluster.groups[0]
    for part in parts:
        group = group.model_copy(update=_faster_part(ClusterSpec(name="one", groups=(group,)), part, times))
    return cluster.model_copy(update={"groups": (group,)})


def with_memory(cluster: ClusterSpec, times: float) -> ClusterSpec:
    """`cluster` with `times` the device memory."""
    group = cluster.groups[0]
    larger = group.device.model_copy(update={"memory_bytes": times * group.device.memory_bytes})
    return cluster.model_copy(update={"groups": (group.model_copy(update={"device": larger}),)})


def _faster_part(cluster: ClusterSpec, part: Part, times: float) -> dict[str, object]:
    group = cluster.groups[0]
    device, host = group.device, group.host
    if part == "peak":
        peaks = {name: times * rate for name, rate in device.peak_flops_per_s.items()}
        return {"device": _changed(device, peak_flops_per_s=peaks)}
    if part == "memory bandwidth":
        return {"device": _changed(device, memory_bytes_per_s=times * device.memory_bytes_per_s)}
    if part == "launches":
        return {"device": _changed(device, launch_seconds=device.launch_seconds / times)}
    if part == "host memory bandwidth":
        return {"host": host.model_copy(update={"memory_bytes_per_s": times * host.memory_bytes_per_s})}
    names = {"fabric": "nic", "node link": "intra_node", "host link": "host_link"}
    link: Link = getattr(group, names[part])
    update = {"bytes_per_s": times * link.bytes_per_s, "latency_seconds": link.latency_seconds / times}
    return {names[part]: link.model_copy(update=update)}


def _changed(device: Device, **update: object) -> Device:
    return device.model_copy(update=update)
