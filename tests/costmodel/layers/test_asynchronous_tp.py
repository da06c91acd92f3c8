"""Which exchanges over tp torch's compiler runs in pieces, and what the cost model hides of them."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812, the usual name
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.fx_passes.micro_pipeline_tp import micro_pipeline_tp_pass
from torch.distributed._functional_collectives import all_gather_tensor_autograd, reduce_scatter_tensor_autograd
from torch.distributed._symmetric_memory import _test_mode
from torch.fx import GraphModule
from torch.testing._internal.distributed.fake_pg import FakeStore

RANKS = 4


@pytest.fixture
def four_ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Four ranks that exchange nothing, on a torch that believes in NCCL."""
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    dist.init_process_group("fake", rank=0, world_size=RANKS, store=FakeStore())
    yield list(range(RANKS))
    dist.destroy_process_group()


def left_and_fused(graph: GraphModule) -> tuple[int, int, int, int]:
    """Gathers and reductions that are left after the compiler's pass, and those that it joined with matmuls."""
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
        node.target = torch.ops.aten.reshape.default  # as the compiler's passes before this one do
    with _test_mode():
        micro_pipeline_tp_pass(graph.graph)
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    wanted = (
        "all_gather_into_tensor",
        "reduce_scatter_tensor",
        "fused_all_gather_matmul",
        "fused_matmul_reduce_scatter",
    )
    gathers, reductions, joined_gathers, joined_reductions = (sum(word in name for name in names) for word in wanted)
    return gathers, reductions, joined_gathers, joined_reductions


def test_the_sum_of_two_matmuls_is_reduced_in_one_piece(four_ranks: list[int]) -> None:
    """Gate and up read one gathered input. Its gradient is a sum, which no matmul gives."""
    gate, up, down = (torch.randn(64, 64, requires_grad=True) for _ in range(3))

    def layer(x: torch.Tensor) -> torch.Tensor:
        whole = all_gather_tensor_autograd(x, 0, four_ranks)
        out: torch.Tensor = reduce_scatter_tensor_autograd(
            (F.silu(whole @ gate) * (whole @ up)) @ down, "sum", 0, four_ranks
        )
        return x + out

    found = []

    def note(graph: GraphModule, _: object) -> GraphModule:
        run = GraphModule(graph, graph.graph)
        found.append(left_and_fused(graph))
        return run

    backend = aot_autograd(fw_compiler=note, bw_compiler=note, partition_fn=min_cut_rematerialization_partition)
    run = torch.compile(layer, backend=backend, fullgraph=True)
    torch.autograd.backward(run(torch.randn(16, 64, requires_grad=True)).sum())
    assert found == [(0, 0, 1, 1), (0, 1, 1, 0)]
