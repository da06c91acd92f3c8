"""From a count of devices to nodes: full nodes, one partly filled node, or racks that each give equally many devices."""

import itertools

from shardwright.base import SpecError, divisors
from shardwright.specs import NodeGroup

# A rack gives at least this share of its devices, so that a job spreads over at most twice the racks that it needs.
_LEAST_OF_A_RACK = 0.5


def nodes_of(standard: NodeGroup, count: int) -> NodeGroup:
    """Return the nodes of the kind `standard` that `count` devices fill.

    Fewer devices than a node has are a part of one. More fill whole nodes, except in racks (`NodeGroup.is_rack`): there
    each rack gives the same number of devices (see `devices_per_rack`), because jobs need not use all 72 of a rack.

    Raises:
        SpecError: `count` fills no nodes or divides into no equal parts of racks; names the nearest counts that do.
    """
    if count <= standard.devices_per_node:
        return standard.part(count).model_copy(update={"nodes": 1})
    per_node = devices_per_rack(standard, count) if standard.is_rack else standard.devices_per_node
    if per_node is None or count % per_node:
        raise SpecError(_refusal(standard, count))
    return standard.part(per_node).model_copy(update={"nodes": count // per_node})


def devices_per_rack(rack: NodeGroup, count: int) -> int | None:
    """Return the devices that each rack gives to a job of `count`: the largest divisor of `count` that a rack holds.

    Divisors of whole trays go before others. None where every divisor leaves more than half of a rack unused.
    """
    most = rack.devices_per_node
    fitting = [per_rack for per_rack in divisors(count) if most * _LEAST_OF_A_RACK <= per_rack <= most]
    return max(fitting, key=lambda per_rack: (per_rack % rack.devices_per_host == 0, per_rack), default=None)


def _refusal(standard: NodeGroup, count: int) -> str:
    name, per_node = standard.device.name, standard.devices_per_node
    if not standard.is_rack:
        full = count // per_node * per_node
        return (
            f"{count} devices do not fill nodes of {per_node} {name}: give {full} or {full + per_node}, "
            "or a TOML file with devices_per_node"
        )
    below, above = _nearest_of_whole_trays(standard, count, -1), _nearest_of_whole_trays(standard, count, 1)
    return f"{count} devices do not divide into equal parts of racks of {per_node} {name}: give {below} or {above}"


def _nearest_of_whole_trays(rack: NodeGroup, count: int, direction: int) -> int:
    """Return the nearest count from `count` up (1) or down (-1) that racks share in whole trays."""
    tray = rack.devices_per_host
    trays = itertools.count(count // tray if direction < 0 else -(-count // tray), direction)
    return next(tray * many for many in trays if (devices_per_rack(rack, tray * many) or 1) % tray == 0)
