"""Context and communicators, whatever the layers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.base.numbers import GIB
from shardwright.catalog.devices import standard_node
from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.tables.memory import (
    HeldBytes,
    communicator_bytes,
    context_bytes,
    fixed_bytes,
    host_reserve_for,
    host_share_bytes,
)
from shardwright.specs.profile import Figure
from shardwright.specs.stack import OWN_STACK, named_stack
from tests.costmodel.fakes import round_cluster
from tests.costmodel.op_times.made_up_profile import made_up_profile
from tests.specs.test_candidates import candidates

OWN = named_stack(OWN_STACK)


@pytest.mark.parametrize(
    ("degrees", "communicators"),
    [({}, 0), ({"dp_shard": 8}, 2), ({"dp_shard": 4, "tp": 2}, 3), ({"pp": 2, "tp": 4}, 3)],
)
def test_one_communicator_an_axis_and_one_of_all_ranks(degrees: dict[str, int], communicators: int) -> None:
    chosen, node = candidates(**degrees), round_cluster().node
    assert communicator_bytes(chosen, node, CALIBRATED)[0] == communicators * CALIBRATED.communicator_bytes
    context = context_bytes(node, CALIBRATED, OWN)
    assert fixed_bytes(chosen, node, CALIBRATED, OWN)[0] == communicator_bytes(chosen, node, CALIBRATED)[0] + context


def test_a_cpu_has_neither() -> None:
    assert fixed_bytes(candidates(dp_shard=8), round_cluster(kind="cpu").node, CALIBRATED, OWN).tolist() == [0.0]


def test_both_as_measured_where_a_profile_has_them() -> None:
    node, chosen = round_cluster().node, candidates(dp_shard=4, tp=2)
    figures = {
        name: Figure(value=value, unit="bytes", meaning=name)
        for name, value in (("context_bytes", 7e8), ("communicator_bytes", 3e7))
    }
    profile = made_up_profile().model_copy(update={"figures": figures})
    measured = node.model_copy(update={"profile": profile})
    assert fixed_bytes(chosen, measured, CALIBRATED, OWN)[0] == 7e8 + 3 * 3e7
    context = context_bytes(node, CALIBRATED, OWN)
    assert fixed_bytes(chosen, node, CALIBRATED, OWN)[0] == context + 3 * CALIBRATED.communicator_bytes


def test_what_a_software_holds_besides_is_not_counted_where_a_profile_measured() -> None:
    """Trainers of Hugging Face: 1.5 GB besides the context of the device; none on a CPU."""
    node, trainer = round_cluster().node, named_stack("hf-trainer")
    assert context_bytes(node, CALIBRATED, trainer) - context_bytes(node, CALIBRATED, OWN) == 1.5e9
    assert context_bytes(round_cluster(kind="cpu").node, CALIBRATED, trainer) == 0.0
    figure = {"context_bytes": Figure(value=7e8, unit="bytes", meaning="context")}
    measured = node.model_copy(update={"profile": made_up_profile().model_copy(update={"figures": figure})})
    assert context_bytes(measured, CALIBRATED, trainer) == 7e8


@pytest.mark.parametrize(("gib", "kept_gib"), [(2, 0.5), (4, 1.0), (8, 1.8), (16, 2.6), (128, 9.32), (1128, 29.32)])
def test_what_a_host_keeps_is_that_of_the_source(gib: float, kept_gib: float) -> None:
    assert host_reserve_for(gib * GIB) * gib == pytest.approx(kept_gib)


def test_a_device_has_its_share_of_what_the_host_does_not_keep() -> None:
    node = round_cluster().node
    kept = node.model_copy(update={"host": node.host.model_copy(update={"memory_reserve": 0.25})})
    assert host_share_bytes(kept) == pytest.approx(0.75 * host_share_bytes(node))


BYTES = st.floats(0.0, 1e12)


class TestRoomIsTheInverseOfThePeak:
    """Activations that fill the room make the peak equal to it; one byte more exceeds it, whatever else is held."""

    @given(static=BYTES, step=BYTES, window=BYTES, buffer=BYTES, slack=st.floats(0.0, 1.0), room=BYTES)
    def test_law(self, static: float, step: float, window: float, buffer: float, slack: float, room: float) -> None:
        held = HeldBytes(*(np.array(part) for part in (static, step, window, buffer, slack)))
        left = float(held.activation_room(np.array(room)))
        if np.isinf(left):
            assert static + step > room
        elif left >= 0:
            assert held.peak_bytes(np.array(left)) == pytest.approx(room, rel=1e-9, abs=1e-3)
            assert held.peak_bytes(np.array(left + 1e-6 * room + 1.0)) > room * (1 - 1e-12)


def test_the_peak_is_in_the_passes_or_in_the_update() -> None:
    held = HeldBytes(*(np.array(part) for part in (100.0, 50.0, 3.0, 4.0, 0.5)))
    assert held.peak_bytes(np.array([0.0, 20.0, 40.0])).tolist() == [150.0, 150.0, 100.0 + 1.5 * 50.0]


def test_a_device_of_a_rack_has_its_share_of_a_tray() -> None:
    """2 x 480 GB for 4 devices, however many of the rack's trays the job uses; a DGX H100 has 2 TB for 8."""
    rack = standard_node("gb200")
    assert host_share_bytes(rack) == host_share_bytes(rack.part(64)) == host_share_bytes(rack.part(2)) == 240e9
    assert host_share_bytes(standard_node("h100")) == 250e9
