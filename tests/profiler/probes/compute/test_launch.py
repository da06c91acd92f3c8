import pytest
import torch

from shardwright.profiler.probes.compute.launch import DispatchProbe, LaunchProbe, LayerOverheadProbe
from shardwright.profiler.timing.probe import Work
from tests.profiler.kernel_trace import kernels_of
from tests.profiler.steady_machine import SteadyMachine


def _by_kernel(work: Work) -> float:
    """A clock of 10 s a matmul and 1 s for any other kernel."""
    return sum(10.0 if name.startswith("mm") else 1.0 for name, _ in kernels_of(work))


def test_a_launch_is_what_the_chain_adds_to_what_keeps_the_device_busy() -> None:
    figures = LaunchProbe().measure(SteadyMachine(seconds_of=_by_kernel, host_seconds=32.0))
    assert figures["launch_seconds"].value == pytest.approx(1.0)
    assert figures["host_seconds_per_kernel"].value == pytest.approx(0.5)
    assert {figure.unit for figure in figures.values()} == {"s"}


def test_the_device_is_busy_for_longer_than_the_host_needs_to_queue_the_chain() -> None:
    longest: list[float] = []

    def clock(work: Work) -> float:
        longest.append(sum(name.startswith("mm") for name, _ in kernels_of(work)) * 10.0)
        return max(1.0, longest[-1])

    LaunchProbe().measure(SteadyMachine(seconds_of=clock, host_seconds=100.0))
    assert max(longest) == pytest.approx(400.0)


def test_noise_never_makes_a_launch_negative() -> None:
    figures = LaunchProbe().measure(SteadyMachine(host_seconds=1.0))
    assert figures["launch_seconds"].value == 0.0


def test_a_dispatch_is_one_direction_of_one_small_operation() -> None:
    def clock(work: Work) -> float:
        names = [name for name, _ in kernels_of(work)]
        assert sum(name.startswith("mul.") for name in names) == 2 * 64
        return 130.0

    (figure,) = DispatchProbe().measure(SteadyMachine(seconds_of=clock)).values()
    assert figure.value == pytest.approx(1.0)


def test_the_floor_is_a_real_layer_forward_and_backward() -> None:
    def clock(work: Work) -> float:
        result = work()
        matmuls = sum(name.startswith("mm") for name, _ in kernels_of(work))
        if isinstance(result, torch.Tensor):
            assert (result.shape, matmuls) == ((1, 16, 64), 7)  # four projections, gate, up and down
            return 1.0
        assert isinstance(result, tuple)
        assert (len(result), matmuls) == (1 + 9, 14)
        return 3.0

    figures = LayerOverheadProbe().measure(SteadyMachine(seconds_of=clock))
    assert figures["layer_overhead_forward_seconds"].value == 1.0
    assert figures["layer_overhead_backward_seconds"].value == 3.0
