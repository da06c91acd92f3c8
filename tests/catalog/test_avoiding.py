"""A cluster without what a user avoids: whole groups, whole nodes, and what is refused."""

import pytest

from shardwright.base.errors import SpecError
from shardwright.catalog.avoiding import keeps_apart, without
from shardwright.catalog.cluster_file import load_cluster
from shardwright.specs.cluster import ClusterSpec

MIXED = load_cluster("h100-sxm:16+a100-sxm-80gb:32")


def counts(cluster: ClusterSpec) -> list[tuple[str, int]]:
    return [(group.device.name, group.devices) for group in cluster.groups]


def test_a_device_leaves_with_all_its_groups() -> None:
    left = without(MIXED, ["a100-sxm-80gb"])
    assert counts(left) == [("h100-sxm", 16)]
    assert not left.is_mixed


def test_a_count_takes_whole_nodes_from_the_end() -> None:
    assert counts(without(MIXED, ["a100-sxm-80gb:8"])) == [("h100-sxm", 16), ("a100-sxm-80gb", 24)]
    assert counts(without(MIXED, ["a100-sxm-80gb:8", "h100-sxm:8"])) == [("h100-sxm", 8), ("a100-sxm-80gb", 24)]


def test_the_link_between_goes_with_the_last_but_one_group() -> None:
    joined = MIXED.model_copy(update={"between": MIXED.groups[0].nic})
    assert without(joined, ["h100-sxm:8"]).between is not None
    assert without(joined, ["h100-sxm"]).between is None


def test_without_nics_one_node_of_each_group_is_left() -> None:
    assert counts(without(MIXED, ["nic"])) == [("h100-sxm", 8), ("a100-sxm-80gb", 8)]
    assert counts(without(load_cluster("h100-sxm:16"), ["nic"])) == [("h100-sxm", 8)]


def test_links_between_groups_leave_the_devices() -> None:
    assert without(MIXED, ["between"]) == MIXED
    assert keeps_apart(MIXED, ["h100-sxm:8", "between"])
    assert not keeps_apart(MIXED, ["h100-sxm:8"])


def test_nics_join_the_groups_unless_a_link_does() -> None:
    joined = MIXED.model_copy(update={"between": MIXED.groups[0].nic})
    assert keeps_apart(MIXED, ["nic"])
    assert not keeps_apart(joined, ["nic"])
    assert not keeps_apart(load_cluster("h100-sxm:16"), ["nic"])


def test_nodes_of_one_kind_have_no_link_between_groups() -> None:
    with pytest.raises(SpecError, match="has nodes of one kind and no groups with a link between them"):
        keeps_apart(load_cluster("h100-sxm:16"), ["between"])


def test_nothing_to_avoid_changes_nothing() -> None:
    assert without(MIXED, []) == MIXED


@pytest.mark.parametrize(
    ("avoided", "says"),
    [
        (["a100"], "has no a100; it has h100-sxm, a100-sxm-80gb, and links 'between' and 'nic'"),
        (["h100-sxm:17"], "give a number of h100-sxm from 1 to 16"),
        (["h100-sxm:x"], "give a number of h100-sxm from 1 to 16"),
        (["h100-sxm:4"], "it cuts a node of 8 h100-sxm; give whole nodes"),
        (["h100-sxm", "a100-sxm-80gb"], "nothing of .* is left"),
    ],
)
def test_a_mistake_is_one_clear_line(avoided: list[str], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        without(MIXED, avoided)
