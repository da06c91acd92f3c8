import torch

from shardwright.profiler.timing.live_bytes import LiveBytes, footprint
from shardwright.profiler.timing.probe import Work

_META = torch.device("meta")


def test_what_is_freed_counts_no_more() -> None:
    with LiveBytes() as live:
        one = torch.ones(1000)
        other = one * 2.0
        assert live.now == 8000
        del one
        assert live.now == 4000
        other.add_(1.0)
    assert live.peak == 8000


def test_views_count_once_and_those_of_what_was_there_before_not_at_all() -> None:
    before = torch.ones(10, 100)
    with LiveBytes() as live:
        turned = before.t()
        own = torch.ones(10, 10)
        view = own.view(-1)[:5]
    assert (live.peak, live.now) == (400, 400)
    del own
    assert live.now == 400
    assert view.numel() == 5
    del view, turned
    assert live.now == 0


def test_a_footprint_is_operands_and_what_works_on_them() -> None:
    def make() -> Work:
        x = torch.empty(250, 1000, device=_META)

        def work() -> torch.Tensor:
            wide = x.double()  # 2 MB
            return wide.sum(0)  # 8 kB

        return work

    found = footprint(make)
    assert (found.operands_bytes, found.working_bytes) == (1e6, 2e6 + 8e3)


def test_a_backward_pass_is_seen() -> None:
    def make() -> Work:
        x = torch.empty(1000, device=_META, requires_grad=True)
        out = x.exp()
        return lambda: torch.autograd.grad(out, x, torch.empty_like(out), retain_graph=True)

    found = footprint(make)
    assert found.operands_bytes == 8000
    assert found.working_bytes == 8000  # the gradient that is given, and the one that comes out
