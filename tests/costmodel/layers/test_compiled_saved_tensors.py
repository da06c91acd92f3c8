"""The bytes that the cost model says a compiled layer keeps, beside those that torch.compile's partition keeps."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812, the usual name
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch.distributed._functional_collectives import all_gather_tensor_autograd
from torch.fx import GraphModule
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.checkpoint import checkpoint

from shardwright.costmodel.layers.operators import regathered_bytes, saved_bytes
from shardwright.specs.model.attention import MultiHeadAttention
from shardwright.specs.model.feed_forward import FeedForward
from shardwright.specs.model.model import Block
from shardwright.specs.training import LinearFormat, Precision, TrainingSpec

HEADS, KEY_HEADS, SIZE, WIDTH, SEQ = 8, 2, 32, 640, 64
HIDDEN = HEADS * SIZE


class Layer(nn.Module):
    """A Llama layer as torchtitan writes it: keys and values are copied for each query head."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(HIDDEN) for _ in range(2))
        self.q, self.o = (nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(HIDDEN, KEY_HEADS * SIZE, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(HIDDEN, WIDTH, bias=False) for _ in range(2))
        self.down = nn.Linear(WIDTH, HIDDEN, bias=False)

    def forward(self, x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        given = self.norms[0](x)
        q, k, v = (part(given).view(1, SEQ, -1, SIZE) for part in (self.q, self.k, self.v))
        q, k = _rotated(q, turns), _rotated(k, turns)
        k, v = (part.repeat_interleave(HEADS // KEY_HEADS, dim=2) for part in (k, v))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(seen.transpose(1, 2).reshape(1, SEQ, -1))
        given = self.norms[1](x)
        out: torch.Tensor = x + self.down(F.silu(self.gate(given)) * self.up(given))
        return out


def _rotated(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns[None, :, None]).flatten(3).type_as(x)


def kept_by_torch() -> int:
    layer = Layer().to(torch.bfloat16)
    turns = torch.polar(torch.ones(SEQ, SIZE // 2), torch.rand(SEQ, SIZE // 2))
    given = torch.randn(1, SEQ, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
    found: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    compiled = torch.compile(layer, backend="aot_eager_decomp_partition", fullgraph=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = compiled(given, turns)
    assert result.requires_grad
    for not_kept in (turns, *layer.parameters()):
        found.pop(not_kept.untyped_storage().data_ptr(), None)
    return sum(found.values())


def test_a_compiled_llama_layer_of_torchtitan() -> None:
    """Beside the model's bytes torch keeps the inverse root of each norm, 4 bytes a token."""
    block = Block(
        attention=MultiHeadAttention(heads=HEADS, kv_heads=KEY_HEADS, head_size=SIZE),
        ffn=FeedForward(width=WIDTH, gated=True),
    )
    training = TrainingSpec(
        seq_len=SEQ, global_batch=1, stack="torchtitan-compiled-loss", precision=Precision(compute="bf16")
    )
    assert kept_by_torch() == SEQ * (saved_bytes(block, training, HIDDEN, 1, 1) + 2 * 4)


@pytest.fixture
def four_ranks() -> Iterator[list[int]]:
    """Four ranks that exchange nothing."""
    dist.init_process_group("fake", rank=0, world_size=4, store=FakeStore())
    yield list(range(4))
    dist.destroy_process_group()


def test_one_gather_serves_a_matmul_that_runs_again_and_the_gradient_of_its_weight(four_ranks: list[int]) -> None:
    weights = [torch.randn(16, 16, requires_grad=True) for _ in range(2)]

    def layer(x: torch.Tensor) -> torch.Tensor:
        whole = all_gather_tensor_autograd(F.rms_norm(x, (16,)), 0, four_ranks)
        return x + (F.relu(whole @ weights[0]) @ weights[1])[: len(x)]

    graphs: list[GraphModule] = []

    def note(graph: GraphModule, _: object) -> GraphModule:
        graphs.append(graph)
        return graph

    backend = aot_autograd(fw_compiler=note, bw_compiler=note, partition_fn=min_cut_rematerialization_partition)
    run = torch.compile(lambda x: checkpoint(layer, x, use_reentrant=False), backend=backend, fullgraph=True)
    run(torch.randn(4, 16, requires_grad=True)).sum().backward()
    gathers = [node for node in graphs[-1].graph.nodes if "all_gather" in str(node.target)]
    (gather,) = gathers
    (waited,) = gather.users
    assert len(waited.users) == 2


@pytest.mark.parametrize(
    ("linear", "bytes_each"), [("fp8", 1), ("fp8-rowwise", 2), ("fp8-rowwise-gw-hp", 0), (None, 0)]
)
@pytest.mark.parametrize("ranks", [1, 4])
def test_inputs_in_8_bits_are_gathered_once_where_a_layer_runs_again(
    linear: LinearFormat | None, bytes_each: int, ranks: int
) -> None:
    """Two norms. Rowwise scales gather in 16 bits; without a lower format, or with plain weight gradients, inputs are kept anyway."""
    block = Block(
        attention=MultiHeadAttention(heads=HEADS, kv_heads=KEY_HEADS, head_size=SIZE),
        ffn=FeedForward(width=WIDTH, gated=True),
    )
    precision = Precision(compute="bf16", linear=linear, gather="fp8" if linear == "fp8" else None)
    training = TrainingSpec(seq_len=SEQ, global_batch=1, stack="torchtitan", precision=precision)
    expected = 2 * bytes_each * HIDDEN * (ranks > 1)
    assert regathered_bytes(block, training, HIDDEN, ranks) == expected
