"""The catalog: shipped hardware facts, each with its source. The figures live in `catalog/*.toml` beside this file."""

import json
import re
import tomllib
from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import Field, model_validator

from shardwright.base import SpecError, nearest
from shardwright.specs import (
    NETWORKS,
    Device,
    DeviceFormat,
    Generation,
    Host,
    Link,
    MachineFingerprint,
    NodeGroup,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Profile,
    Spec,
)

from . import generations

_FIGURES = (
    "memory_bytes",
    "memory_bytes_per_s",
    "peak_flops_per_s",
    "matmul_share",
    "multiprocessors",
    "launch_seconds",
    "context_bytes",
)
_OPTIONAL = ("matmul_share_by_format", "power_watts", "boost_hz")
_NOT_MODELLED = {
    "trainium": "the links of Trainium form a torus beside a switch, which is not modelled",
}
_MEMORY_TOLERANCE = 0.06


class DeviceEntry(Spec):
    """A device as the catalog writes it: `Device`, its other names, what `nvidia-smi` calls it, and its standard node."""

    aliases: tuple[str, ...]
    reported_as: tuple[str, ...]
    kind: Literal["gpu", "cpu"] = "gpu"
    node: str
    memory_bytes: PositiveFloat
    memory_bytes_per_s: PositiveFloat
    peak_flops_per_s: dict[DeviceFormat, PositiveFloat] = Field(min_length=1)
    matmul_share: PositiveFloat
    matmul_share_by_format: dict[DeviceFormat, PositiveFloat] = Field(default_factory=dict)
    multiprocessors: PositiveInt
    launch_seconds: NonNegativeFloat
    context_bytes: NonNegativeFloat
    generation: Generation | None = None
    power_watts: PositiveFloat | None = None
    boost_hz: PositiveFloat | None = None
    sources: dict[str, str]

    @model_validator(mode="after")
    def _every_figure_has_its_source(self) -> "DeviceEntry":
        stated = [name for name in _OPTIONAL if getattr(self, name)]
        figures = (*_FIGURES, *stated)
        if set(self.sources) != set(figures):
            raise ValueError(f"sources are of {', '.join(self.sources)}; each of {', '.join(figures)} needs one")
        return self


class NodeEntry(Spec):
    """A node: `NodeGroup` without its device, its links by name."""

    devices_per_node: PositiveInt
    host_devices: PositiveInt | None = None
    intra_node: str
    host_link: str
    nics_per_node: PositiveInt
    nic: str
    host: Host


def device_names() -> tuple[str, ...]:
    """The catalog's own name of each device, without aliases."""
    return tuple(_devices())


def link_names() -> tuple[str, ...]:
    return tuple(_links())


def fabric_names() -> tuple[str, ...]:
    """The links that can join nodes."""
    return tuple(name for name, link in _links().items() if link.kind in NETWORKS)


def device_name(given: str) -> str:
    """The catalog's own name of the device that `given` means.

    It accepts any case, `_` or blanks for `-`, an alias, a remark in parentheses, and the words of a name in any order with
    its maker and kind of memory: `H100-SXM-95GB-HBM2e (lower TDP)`, `NVIDIA A100 40GB PCIe`.

    Raises:
        SpecError: no such device; the nearest is named. A family whose links no node can describe is refused by name.
    """
    folded = _fold(given)
    for family, why in _NOT_MODELLED.items():
        if folded.startswith(family):
            raise SpecError(f"no device '{given}' in the catalog: {why}. It has {', '.join(device_names())}")
    by_name = _canonical_by_name()
    found = by_name.get(folded) or _canonical_by_words().get(_words(given))
    if found is None:
        close = nearest(folded, by_name)
        shown = f"{close} All of them:" if close else " The catalog has"
        raise SpecError(f"no device '{given}' in the catalog.{shown} {', '.join(device_names())}")
    return found


def device(name: str) -> Device:
    """One device of the catalog, by its name or an alias.

    Raises:
        SpecError: no such device.
    """
    canonical = device_name(name)
    entry = _devices()[canonical]
    derived = {}
    if entry.generation is not None and entry.boost_hz is not None:
        derived = generations.derived(
            entry.generation, entry.peak_flops_per_s, entry.multiprocessors, entry.boost_hz, entry.sources["boost_hz"]
        )
    sources = {name: source for name, source in entry.sources.items() if name != "boost_hz"}
    return Device(
        name=canonical,
        kind=entry.kind,
        memory_bytes=entry.memory_bytes,
        memory_bytes_per_s=entry.memory_bytes_per_s,
        peak_flops_per_s=dict(entry.peak_flops_per_s),
        matmul_share=entry.matmul_share,
        matmul_share_by_format=dict(entry.matmul_share_by_format),
        multiprocessors=entry.multiprocessors,
        launch_seconds=entry.launch_seconds,
        context_bytes=entry.context_bytes,
        generation=entry.generation,
        power_watts=entry.power_watts,
        sources=sources | {name: figure.source for name, figure in derived.items()},
        **{name: figure.value for name, figure in derived.items()},
    )


def link(name: str) -> Link:
    """One link of the catalog.

    Raises:
        SpecError: no such link; the nearest is named.
    """
    found = _links().get(_fold(name))
    if found is None:
        raise SpecError(
            f"no link '{name}' in the catalog.{nearest(name, link_names())} All of them: {', '.join(link_names())}"
        )
    return found


def fabric(name: str) -> Link:
    """One link of the catalog that can join nodes.

    Raises:
        SpecError: no such link, or one that stays inside a node.
    """
    found = _links().get(_fold(name))
    if found is None or found.kind not in NETWORKS:
        close = nearest(name, fabric_names())
        raise SpecError(f"no fabric '{name}' in the catalog.{close} All of them: {', '.join(fabric_names())}")
    return found


def node_names() -> tuple[str, ...]:
    """Every node of the catalog: the standard ones of its devices, and others that are built."""
    return tuple(_nodes())


def standard_node(device_given: str, *, nodes: int = 1, node: str | None = None) -> NodeGroup:
    """`nodes` full nodes of this device's standard kind, or of the kind that `node` names.

    Raises:
        SpecError: no such device, or no such node; the nearest is named.
    """
    canonical = device_name(device_given)
    entry = _node(node) if node is not None else _nodes()[_devices()[canonical].node]
    return NodeGroup(
        device=device(canonical),
        nodes=nodes,
        devices_per_node=entry.devices_per_node,
        intra_node=link(entry.intra_node),
        host_link=link(entry.host_link),
        nics_per_node=entry.nics_per_node,
        nic=link(entry.nic),
        host=entry.host,
        host_devices=entry.host_devices,
        profile=shipped_profile(canonical),
    )


def _node(name: object) -> NodeEntry:
    found = _nodes().get(_fold(name)) if isinstance(name, str) else None
    if found is None:
        close = nearest(name, node_names()) if isinstance(name, str) else ""
        raise SpecError(f"no node {name!r} in the catalog.{close} All of them: {', '.join(node_names())}")
    return found


@cache
def shipped_profile(name: str) -> Profile | None:
    """The shipped profile of a device, `catalog/profiles/NAME.json`; None if there is none yet.

    Raises:
        SpecError: the file is not a valid profile, or of another device.
    """
    file = _folder().joinpath("profiles", f"{name}.json")
    if not file.is_file():
        return None
    profile = Profile.parse(json.loads(file.read_text(encoding="utf-8")), source=file.name)
    mark = profile.fingerprint
    if device_measured(mark) != name:
        raise SpecError(f"{file.name}: was measured on {mark.device}, which is not {name}")
    return profile


def device_measured(mark: MachineFingerprint) -> str | None:
    """The catalog's name of the measured device, or None when the catalog has no such device.

    A CPU that ranks share has none: the catalog's CPU hosts are examples, not parts.
    """
    return None if mark.shared_by_ranks else device_reported_as(mark.device, mark.device_memory_bytes)


def device_reported_as(reported_name: str, memory_bytes: float) -> str | None:
    """The catalog's name of a device that the driver reports, or None when the catalog has no such device.

    `memory_bytes` is the driver's total: some names are shared by parts with different memory, and a part with other
    memory than the catalog's is another part.
    """
    for name, entry in _devices().items():
        close = abs(memory_bytes - entry.memory_bytes) <= _MEMORY_TOLERANCE * entry.memory_bytes
        if close and reported_name.strip().lower() in (known.lower() for known in entry.reported_as):
            return name
    return None


def _fold(name: str) -> str:
    without_remark = name.lower().partition("(")[0]
    return "-".join(without_remark.replace("_", " ").replace("-", " ").split())


# Words around a device's name that do not tell it from another one: its maker, its brand, the kind of its memory.
_MAKERS = {"nvidia", "amd", "intel", "huawei", "instinct", "geforce", "tesla", "gpu", "tensor", "core"}
_KINDS = {"hbm2", "hbm2e", "hbm3", "hbm3e"}


def _words(name: str) -> frozenset[str]:
    """The words of a name that tell devices apart, in any order; a socket without its generation: `sxm` of `SXM4`."""
    words = _fold(name).split("-")
    return frozenset(re.sub(r"^sxm\d$", "sxm", word) for word in words if word not in _MAKERS | _KINDS)


@cache
def _canonical_by_name() -> dict[str, str]:
    names = {name: name for name in _devices()}
    for name, entry in _devices().items():
        names |= dict.fromkeys(entry.aliases, name)
    return names


@cache
def _canonical_by_words() -> dict[frozenset[str], str]:
    """Names, other names and what drivers report, as words; the catalog's own names count first."""
    known = _canonical_by_name() | {text: name for name, entry in _devices().items() for text in entry.reported_as}
    found: dict[frozenset[str], str] = {}
    for text, name in known.items():
        found.setdefault(_words(text), name)
    return found


@cache
def _devices() -> dict[str, DeviceEntry]:
    files = sorted(file.name for file in _folder().iterdir() if file.name.startswith("devices-"))
    return {
        name: DeviceEntry.parse(entry, source=f"{file}: {name}")
        for file in files
        for name, entry in _read(file).items()
    }


@cache
def _nodes() -> dict[str, NodeEntry]:
    return {name: NodeEntry.parse(entry, source=f"nodes.toml: {name}") for name, entry in _read("nodes.toml").items()}


@cache
def _links() -> dict[str, Link]:
    return {name: Link.parse(entry, source=f"links.toml: {name}") for name, entry in _read("links.toml").items()}


def _folder() -> resources.abc.Traversable:
    return resources.files(__package__)


def _read(file_name: str) -> dict[str, Any]:
    return tomllib.loads(_folder().joinpath(file_name).read_text(encoding="utf-8"))
