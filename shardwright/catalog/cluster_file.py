"""Reading a cluster: the short form `h100-sxm:64`, or a TOML file that overrides the catalog in a few lines."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from shardwright.base import SpecError, check_values, nearest, read_text
from shardwright.specs import MOST_DEVICES, ClusterSpec, Device, Host, Link, NodeGroup, Spec

from . import devices as catalog
from .node_counts import nodes_of

_LEAST_MEMORY_BYTES = 1e8
_HELP = "give DEVICE:COUNT such as h100-sxm:64, DEVICE:COUNT@FABRIC such as h100-sxm:64@ethernet-100g, or a TOML file"
_CLUSTER_KEYS = ("name", "oversubscription", "between", "groups")
_GROUP_KEYS = (*NodeGroup.model_fields, "node_like", "devices")


def load_cluster(reference: str) -> ClusterSpec:
    """Load the cluster that `reference` names.

    `DEVICE:COUNT` is COUNT devices of the catalog in their standard nodes: full nodes, one partly filled node with its
    share of the host and of the NICs, or racks that each give equally many devices (`nodes_of`). `@FABRIC` replaces the
    NICs: Ethernet without RDMA gets one NIC per host, other fabrics the standard number; `@4x-roce-100g` sets four a
    host. A host is a node, or a tray of a rack. `+` joins several of these into a mixed cluster. Anything that ends in `.toml`, or has a path separator, is read as a file
    (docs/cluster.md shows one).

    Raises:
        SpecError: one line: what was given, what is allowed, and the nearest known name.
    """
    text = reference.strip()
    if "+" in text and not _is_path(text):
        groups = [group for part in text.split("+") for group in load_cluster(part).groups]
        return ClusterSpec(name=text, groups=tuple(groups))
    if text == "local" or text.startswith("local:"):
        raise SpecError(f"'{text}' means this machine: the command line measures it, a cluster file cannot name it")
    if _is_path(text):
        return _read_toml(Path(text))
    device, colon, count = text.partition(":")
    if not device:
        raise SpecError(f"'{reference}' is not a cluster; {_HELP}")
    if not colon:
        if Path(text).is_file():
            raise SpecError(f"{text}: is not a TOML file by its name; {_HELP}")
        name = catalog.device_name(device)
        raise SpecError(
            f"'{text}' says no count of devices; write {name}:{catalog.standard_node(name).devices_per_node}"
        )
    count, at, fabric = count.partition("@")
    group = nodes_of(catalog.standard_node(catalog.device_name(device)), _count(count, text))
    if at:
        group = _with_fabric(group, fabric, text)
    return ClusterSpec(name=text, groups=(group,))


def _is_path(text: str) -> bool:
    return text.endswith(".toml") or "/" in text or "\\" in text


def _count(text: str, reference: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= MOST_DEVICES:
        raise SpecError(
            f"'{reference}': the count of devices is '{text}'; give a whole number from 1 to {MOST_DEVICES:,}"
        )
    return int(text)


def _with_fabric(group: NodeGroup, text: str, reference: str) -> NodeGroup:
    count, name = _nics_and_name(text, reference)
    nic = catalog.fabric(name)
    hosts = -(-group.devices_per_node // group.devices_per_host)
    nics = (count or 1) * hosts
    if count is None and nic.kind != "ethernet":
        nics = group.nics_per_node
    return group.model_copy(update={"nic": nic, "nics_per_node": nics})


def _nics_and_name(text: str, reference: str) -> tuple[int | None, str]:
    found = re.fullmatch(r"(?:([0-9]{1,3})x-?)?(.+)", text)
    if found is None or (found[1] is not None and int(found[1]) == 0):
        raise SpecError(
            f"'{reference}': '{text}' is not a fabric; give one such as ethernet-100g, or 4x-roce-100g for four NICs per node"
        )
    return (int(found[1]) if found[1] else None), found[2]


def _read_toml(path: Path) -> ClusterSpec:
    text = read_text(path)
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
        raise SpecError(f"{path}: is not valid TOML ({error or 'nested too deep'})") from None
    check_values(data, str(path))
    try:
        return ClusterSpec.parse(_expanded(data, path.stem), source=str(path))
    except SpecError as error:
        line = str(error).removeprefix(f"{path}: ")
        if "groups" not in data:
            line = line.replace("'groups.0.", "'")  # the file wrote these keys at its top level
        raise SpecError(f"{path}: {line}") from None


def _expanded(data: dict[str, Any], default_name: str) -> dict[str, Any]:
    """The file with every reference to the catalog resolved."""
    cluster = {"name": default_name} | {key: value for key, value in data.items() if key in _CLUSTER_KEYS}
    rest = {key: value for key, value in data.items() if key not in _CLUSTER_KEYS}
    if "groups" not in data:
        cluster["groups"] = [rest]
    elif rest:
        key = next(iter(rest))
        if key in _GROUP_KEYS:
            raise SpecError(f"key '{key}' is of a group: write it in each [[groups]] table, not beside them")
        raise SpecError(f"unknown key '{key}' beside groups; allowed: {', '.join(_CLUSTER_KEYS)}.{_hint(key)}")
    groups = cluster["groups"]
    if not isinstance(groups, list) or not groups or not all(isinstance(group, dict) for group in groups):
        raise SpecError("'groups' is not a list of tables; start each group with [[groups]]")
    cluster["groups"] = [_group(group, nested="groups" in data) for group in groups]
    if "between" in cluster:
        cluster["between"] = _link(cluster["between"], "between")
    return cluster


def _hint(key: str) -> str:
    return nearest(key, (*_CLUSTER_KEYS, *_GROUP_KEYS))


def _group(given: dict[str, Any], *, nested: bool) -> dict[str, Any]:
    for key in given:
        if nested and key in _CLUSTER_KEYS:
            raise SpecError(f"key '{key}' is of the cluster: write it above the [[groups]] tables")
        if key not in _GROUP_KEYS:
            raise SpecError(f"unknown key '{key}'; allowed: {', '.join((*_GROUP_KEYS, *_CLUSTER_KEYS))}.{_hint(key)}")
    if "device" not in given:
        raise SpecError(f"key 'device' is missing: name one of the catalog ({', '.join(catalog.device_names())})")
    device = given["device"]
    group = dict(given)
    base = device.get("like") if isinstance(device, dict) else device
    if isinstance(base, str):
        standard = _standard_node(base, given).model_dump()
        changes = {key: value for key, value in device.items() if key != "like"} if isinstance(device, dict) else {}
        group = standard | group | {"device": _merged(standard["device"], changes, Device, "device")}
        if changes:  # measurements of the catalog's device say nothing about another
            group["profile"] = None
        group["host"] = _merged(standard["host"], given.get("host", {}), Host, "host")
        group.pop("node_like", None)
        if "nodes" not in given:
            group.pop("nodes")
    elif "node_like" in given:
        raise SpecError("'node_like' needs a device of the catalog: give its name, or { like = NAME }, as 'device'")
    elif not isinstance(device, dict) or "like" in device:
        raise SpecError(f"'device' is {device!r}: give a name of the catalog, or a table")
    for key in ("intra_node", "host_link", "nic"):
        if key in given:
            group[key] = _link(given[key], key)
    _check_memory(group)
    return _with_node_count(group)


def _standard_node(name: str, given: Mapping[str, Any]) -> NodeGroup:
    """The node `given["node_like"]`, or the one that this device is usually built into.

    It is a part of that node where `devices_per_node` or the total of `devices` asks for fewer. What is no whole number
    is left for the checks of the group.
    """
    standard = catalog.standard_node(name, node=given.get("node_like"))
    per_node, total = given.get("devices_per_node"), given.get("devices")
    if _is_count(per_node):
        return standard.part(per_node)
    if _is_count(total) and "nodes" not in given and (total < standard.devices_per_node or standard.is_rack):
        return nodes_of(standard, total)
    return standard


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_DEVICES


def _merged(standard: dict[str, Any], changes: Any, cls: type[Spec], where: str) -> dict[str, Any]:
    """`standard` with `changes` applied; its sources say which figures are no longer the catalog's."""
    if not isinstance(changes, dict):
        raise SpecError(f"'{where}' is {changes!r}: give a table")
    for key in changes:
        if key not in cls.model_fields:
            known = ", ".join(cls.model_fields)
            raise SpecError(f"unknown key '{where}.{key}'; allowed: {known}.{nearest(key, cls.model_fields)}")
    merged = standard | changes
    if not changes:
        return merged
    if "sources" in standard and "sources" not in changes:
        merged["sources"] = standard["sources"] | {
            field: "given by the user" for field in changes if field in standard["sources"]
        }
    elif "source" in standard and "source" not in changes:
        merged["source"] = f"{', '.join(changes)} given by the user; the rest: {standard['source']}"
    return merged


def _link(given: Any, where: str) -> dict[str, Any]:
    if isinstance(given, str):
        return (catalog.fabric(given) if where == "nic" else catalog.link(given)).model_dump()
    if not isinstance(given, dict):
        raise SpecError(f"'{where}' is {given!r}: give a name of the catalog, or a table")
    if isinstance(base := given.get("like"), str):
        changes = {key: value for key, value in given.items() if key != "like"}
        return _merged(_link(base, where), changes, Link, where)
    return given


def _check_memory(group: Mapping[str, Any]) -> None:
    """Refuse gigabytes in place of bytes: on a device of 80 bytes nothing would fit."""
    for where in ("device", "host"):
        size = group[where].get("memory_bytes") if isinstance(group.get(where), dict) else None
        if isinstance(size, int | float) and not isinstance(size, bool) and 0 < size < _LEAST_MEMORY_BYTES:
            raise SpecError(f"'{where}.memory_bytes' is {size:g}: it is in bytes; {size:g} GB would be {size:g}e9")


def _with_node_count(group: dict[str, Any]) -> dict[str, Any]:
    """`devices` is the total of the group: turn it into `nodes`."""
    if "devices" not in group and "nodes" not in group:
        raise SpecError("no count of devices: add nodes = 8, say, or devices = 64")
    if "devices" not in group:
        return group
    total, per_node = group.pop("devices"), group.get("devices_per_node")
    if "nodes" in group:
        raise SpecError("give 'devices' or 'nodes', not both")
    if isinstance(total, bool) or not isinstance(total, int) or not 1 <= total <= MOST_DEVICES:
        raise SpecError(f"'devices' is {total!r}: give a whole number from 1 to {MOST_DEVICES:,}")
    if not isinstance(per_node, int) or per_node < 1:
        raise SpecError("'devices' needs 'devices_per_node', a whole number from 1")
    if total % per_node:
        full = total // per_node * per_node
        near = f"{full} or {full + per_node}" if full else f"{per_node}, or set devices_per_node = {total}"
        raise SpecError(f"'devices' is {total}: it does not fill nodes of {per_node}; give {near}")
    return group | {"nodes": total // per_node}
