"""The table of measured collectives, and the systems that its rows ran on."""

import pytest

from shardwright.calibration.measured_collective import (
    SYSTEMS,
    MeasuredCollective,
    node_of,
    published_collectives,
    reached_fractions,
)

ROWS, LEFT_OUT = published_collectives()


def rows_of(log: str) -> list[MeasuredCollective]:
    return [row for row in ROWS if row.log == log]


def test_every_row_is_predicted_or_counted_with_its_reason() -> None:
    assert len(ROWS) + LEFT_OUT.total() == 234
    assert LEFT_OUT == {
        "hardware not stated": 20,
        "no collective: a copy, or a drive": 6,
        "rate rounded to nearly nothing": 2,
    }


def test_every_described_system_was_measured() -> None:
    assert {row.system for row in ROWS} == set(SYSTEMS)


def test_a_latency_is_read_and_a_bus_rate_turned_into_one() -> None:
    assert rows_of("p4de, 2 nodes")[-1].seconds == pytest.approx(51406e-6)
    largest = rows_of("h200, from PyTorch, 1 node")[-1]
    assert largest.seconds == pytest.approx(17179869184 / 275.58e9, rel=1e-4)
    assert largest.bus_bytes_per_s == pytest.approx(482.26e9)


def test_ranks_that_a_row_leaves_out_are_those_of_its_notes() -> None:
    assert {(row.ranks, row.nodes) for row in rows_of("p5en, 16 nodes")} == {(128, 16)}


def test_a_system_has_the_nics_it_states() -> None:
    """AWS p4de.24xlarge: four of 100 Gb/s."""
    node = node_of(rows_of("p4de, 2 nodes")[0], latency_factor=2.0, efa_seconds=50e-6)
    assert node.node_bytes_per_s == 50e9
    assert node.nic_latency_seconds == 100e-6
    assert node.intra_node.latency_seconds == pytest.approx(6.8e-6)


def test_where_the_switch_was_forbidden_to_add_it_does_not() -> None:
    h200 = rows_of("h200, 4 to 8 ranks, 1 node")
    kinds = {row.in_switch: node_of(row, latency_factor=1, efa_seconds=0).intra_node.kind for row in h200}
    assert kinds == {True: "nvswitch", False: "nvlink"}


def test_nothing_measured_is_faster_than_its_wires() -> None:
    """A wrong count of what passes a link, or a wrong system, would show as a share over 1."""
    reached = reached_fractions(ROWS)
    assert {name: round(max(shares), 2) for name, shares in reached.items()} == {
        "nvlink_fraction": 0.82,
        "nic_fraction": 0.95,
        "in_switch_fraction": 0.69,
    }
