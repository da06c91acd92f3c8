"""Collectives on a torus, by hand: 64 devices are 4 x 4 x 4, with six links of 10 GB/s."""

import pytest

from shardwright.costmodel.op_times import CollectiveName, Collectives
from shardwright.specs import RankGroup
from tests.costmodel.fakes import round_cluster
from tests.costmodel.op_times.collectives.test_nccl import ROUND

LINKS, HOP = 60e9, 1e-6


def seconds(name: CollectiveName, size_bytes: float, ranks: int, *, devices: int = 64, dimensions: int = 3) -> float:
    node = round_cluster().groups[0]
    links = node.intra_node.model_copy(
        update={"bytes_per_s": LINKS, "latency_seconds": HOP, "torus": dimensions, "kind": "ici"}
    )
    torus = node.model_copy(update={"devices_per_node": devices, "intra_node": links})
    return float(Collectives(torus, ROUND).seconds(name, size_bytes, RankGroup(ranks, 1, 1)))


@pytest.mark.parametrize(
    ("ranks", "links", "steps"),
    [(2, 20e9, 1), (4, 20e9, 3), (16, 40e9, 6), (64, 60e9, 9)],
)
def test_a_group_has_two_links_in_each_dimension_that_it_fills(ranks: int, links: float, steps: int) -> None:
    gathered = (ranks - 1) / ranks * 1e9 / links
    assert seconds("all_gather", 1e9, ranks) == pytest.approx(steps * HOP + gathered)


@pytest.mark.parametrize(("devices", "hops"), [(64, 1), (512, 2), (4096, 4)])
def test_messages_to_all_pass_a_quarter_of_each_side(devices: int, hops: int) -> None:
    """Each loads the two links of a dimension: 20 GB/s carry S times the hops."""
    sent = (devices - 1) / devices * 1e10
    assert seconds("all_to_all", 1e10, devices, devices=devices) == pytest.approx(sent * hops / 20e9, rel=0.01)


def test_a_flat_torus_has_two_dimensions() -> None:
    """256 are 16 x 16: 16 ranks fill one of them, with half of the links."""
    along, whole = (seconds("all_gather", 1e9, ranks, devices=256, dimensions=2) for ranks in (16, 256))
    assert along == pytest.approx(15 * HOP + 15 / 16 * 1e9 / 30e9)
    assert whole == pytest.approx(30 * HOP + 255 / 256 * 1e9 / 60e9)
