"""What traffic adds to the compute that it runs beside."""

from dataclasses import replace

import numpy as np
import pytest

from shardwright.costmodel.op_times.constants import CALIBRATED
from shardwright.costmodel.op_times.overlap import Exposed, exposed_beside
from tests.costmodel.fakes import round_cluster

# of 100 multiprocessors: a collective takes a fifth of the compute, a copy a twentieth
CONSTANTS = replace(CALIBRATED, collective_multiprocessors=20.0, copy_multiprocessors=5.0)


def exposed(compute: float, network: float, copies: float) -> Exposed:
    sizes = (np.array([seconds]) for seconds in (compute, network, copies))
    return exposed_beside(round_cluster().node.device, CONSTANTS, *sizes)


@pytest.mark.parametrize(
    ("compute", "network", "copies", "of_network", "of_copies"),
    [
        (10, 4, 0, 0.8, 0),  # hidden; it slows four seconds
        (10, 0, 4, 0, 0.2),
        (10, 4, 4, 0.8, 0.2),
        (5, 4, 4, 0.8, 0.05),  # the network leaves the copies one second of compute
        (5, 8, 4, 3 + 1.0, 0),
        (5, 0, 8, 0, 3 + 0.25),
    ],
)
def test_each_slows_compute_by_its_own_share(
    compute: float, network: float, copies: float, of_network: float, of_copies: float
) -> None:
    found = exposed(compute, network, copies)
    assert (found.network.item(), found.host_copy.item()) == pytest.approx((of_network, of_copies))
