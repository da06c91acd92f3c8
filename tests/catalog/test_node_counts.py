"""Counts of devices and the nodes they fill."""

import pytest

from shardwright.base.errors import SpecError
from shardwright.catalog.devices import standard_node
from shardwright.catalog.node_counts import nodes_of


@pytest.mark.parametrize(
    ("count", "racks", "per_rack"),
    [
        (4, 1, 4),
        (10, 1, 10),
        (72, 1, 72),
        (80, 2, 40),
        (128, 2, 64),
        (144, 2, 72),
        (256, 4, 64),
        (512, 8, 64),
        (108, 3, 36),  # 54 is larger, and 13.5 trays
        (74, 2, 37),  # no whole number of trays divides it
    ],
)
@pytest.mark.parametrize("name", ["gb200", "gb300"])
def test_racks_give_equally_many_devices(name: str, count: int, racks: int, per_rack: int) -> None:
    nodes = nodes_of(standard_node(name), count)
    assert (nodes.nodes, nodes.devices_per_node) == (racks, per_rack)
    assert (nodes.nics_per_node, nodes.devices_per_host) == (per_rack, 4)


@pytest.mark.parametrize(
    ("count", "near"),
    [(73, "72 or 80"), (146, "144 or 156"), (9_999_999, "9999984 or 10000000")],
)
def test_a_count_that_racks_cannot_share_names_its_neighbours(count: int, near: str) -> None:
    """73 is prime; 146 leaves 2 for each of 73 racks. 76 is 2 x 38, which is no whole number of trays, and 80 is 2 x 40."""
    with pytest.raises(SpecError, match=f"{count} devices .* racks of 72 gb200: give {near}$") as caught:
        nodes_of(standard_node("gb200"), count)
    assert "\n" not in str(caught.value)


def test_servers_are_full() -> None:
    assert nodes_of(standard_node("h100"), 64) == standard_node("h100", nodes=8)
    with pytest.raises(SpecError, match="give 56 or 64, or a TOML file with devices_per_node"):
        nodes_of(standard_node("h100"), 60)
