"""Layers of hybrids: Mamba-2, lightning attention, and layers that are attention or a feed-forward alone."""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shardwright.catalog.huggingface import load_model
from shardwright.costmodel.layers import operators
from shardwright.costmodel.layers.all_rows import WorkModel
from shardwright.costmodel.layers.core import attention_core_flops
from shardwright.costmodel.layers.exchanges import hidden_pairs, layout_changes
from shardwright.costmodel.layers.exchanges.linear import LinearExchange
from shardwright.costmodel.layers.layer import LayerWork
from shardwright.costmodel.layers.recurrence import recurrence_bytes, recurrence_flops, recurrence_moved_bytes
from shardwright.costmodel.layers.row import RowWork
from shardwright.specs.model import Block, Lightning, Mamba2, NoAttention
from shardwright.specs.training import TrainingSpec
from tests.catalog.huggingface.meta_model import build_on_meta, decoder_layers
from tests.catalog.huggingface.small_configs import SMALL, read
from tests.costmodel.fakes import RoundTimes, round_cluster
from tests.specs.test_candidates import candidates

from .counted_layers import _counting, on_a_gpu

SEQ, BATCH, HIDDEN = 32, 2, 128
WIDE = SMALL | {"hidden_size": HIDDEN, "head_dim": 32}
NEMOTRON: dict[str, Any] = WIDE | {
    "model_type": "nemotron_h",
    "hybrid_override_pattern": "M-*E",
    "mamba_num_heads": 8,
    "mamba_head_dim": 32,
    "n_groups": 2,
    "ssm_state_size": 16,
    "chunk_size": 8,
    "n_routed_experts": 4,
    "moe_intermediate_size": 96,
    "moe_shared_expert_intermediate_size": 80,
}
MAMBA = {"mamba_n_heads": 8, "mamba_d_state": 16, "mamba_n_groups": 2, "mamba_chunk_size": 8}
BAMBA = WIDE | MAMBA | {"model_type": "bamba", "num_hidden_layers": 2, "attn_layer_indices": [1]}
MINIMAX: dict[str, Any] = WIDE | {
    "model_type": "minimax",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "layer_types": ["linear_attention", "full_attention"],
    "block_size": 8,
}


def training(**given: Any) -> TrainingSpec:
    return TrainingSpec(**({"seq_len": SEQ, "global_batch": BATCH, "attention": "flash"} | given))


def row(config: Mapping[str, Any], kind: int, **degrees: int) -> RowWork:
    model = read(config)
    chosen = candidates(micro_batch=BATCH, **degrees)
    times = RoundTimes(node=round_cluster(nodes=2, devices_per_node=4).node)
    return WorkModel(model, training(), times, chosen).layer(model.layer_classes[kind])


class TestFlops:
    @pytest.mark.parametrize("groups", [2, 8])
    def test_of_mamba_are_those_that_torch_counts_but_for_what_its_kernel_shares(self, groups: int) -> None:
        config = NEMOTRON | {"n_groups": groups}
        mixer = _real_layer(config, 0, "cpu").mixer
        with torch.no_grad(), FlopCounterMode(display=False) as counted:
            mixer.eval()(torch.randn(1, SEQ, HIDDEN))
        block = read(config).layer_classes[0]
        attention = block.attention
        assert isinstance(attention, Mamba2)
        matmuls = operators.attention_matmuls(block, HIDDEN, SEQ, 1)
        core = attention_core_flops(block, training(), SEQ, 1, causal=True)
        # transformers' code in Python multiplies C and B for each head, pads its convolution, and adds up states of all chunks at once
        repeated = 2.0 * SEQ * attention.chunk * attention.key_size * (attention.heads - groups)
        padding = 2.0 * attention.convolved_width * attention.kernel * (attention.kernel - 1)
        passed = 2.0 * (SEQ // attention.chunk + 1) ** 2 * attention.state_size
        own = float(sum(matmul.flops for matmul in matmuls) + core)
        assert counted.get_total_flops() - padding - repeated - passed == own

    def test_of_lightning_attention_are_those_that_torch_counts(self) -> None:
        layer = _real_layer(MINIMAX, 0, "cpu").self_attn
        with torch.no_grad(), FlopCounterMode(display=False) as counted:
            layer.eval()(torch.randn(1, SEQ, HIDDEN), None, None)
        block = read(MINIMAX).layer_classes[0]
        assert isinstance(block.attention, Lightning)
        matmuls = operators.attention_matmuls(block, HIDDEN, SEQ, 1)
        core = attention_core_flops(block, training(), SEQ, 1, causal=True)
        assert counted.get_total_flops() == float(sum(matmul.flops for matmul in matmuls) + core)

    def test_of_mamba_by_hand(self) -> None:
        """Two groups of B and C of 16, eight heads of 32, chunks of 8, and four taps of 2 x 32 + 256 channels."""
        attention = read(NEMOTRON).layer_classes[0].attention
        assert isinstance(attention, Mamba2)
        assert recurrence_flops(attention) == 2 * (8 * 2 * 16 + 8 * (8 * 32 + 2 * 16 * 32)) + 2 * 320 * 4


class _Combined(torch.autograd.Function):
    """What `MambaSplitConv1dScanCombinedFn` of mamba_ssm keeps (ops/triton/ssd_combined.py), without its computation."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, inner: int, groups: int, output: Tensor) -> Tensor:
        tokens = projected.shape[:-1]
        roots = projected.new_empty(*tokens, groups, dtype=torch.float32)
        ctx.save_for_backward(projected, projected.new_empty(*tokens, inner), roots, output)
        return projected.new_empty(*tokens, output.shape[0])


def _combined(projected: Tensor, *_given: Any, **options: Any) -> Tensor:
    inner = options["rmsnorm_weight"].shape[0]
    apply: Any = _Combined.apply
    found: Tensor = apply(projected, inner, options["ngroups"], options["outproj_weight"])
    return found


class TestKeptBytes:
    @pytest.mark.parametrize("kind", range(4), ids=["mamba", "feed-forward", "attention", "experts"])
    def test_of_each_layer_of_nemotron(self, kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
        _on_kernels(monkeypatch, "nemotron_h")
        own = row(NEMOTRON, kind).activation_bytes_by_policy[0, 0]
        tolerance = 0.006 if kind == 3 else 0.003  # as in test_saved_tensors.py, for the choice of groups of experts
        assert own == pytest.approx(_saved(NEMOTRON, kind), rel=tolerance)

    @pytest.mark.parametrize("kind", range(2), ids=["mamba", "attention"])
    def test_of_each_layer_of_bamba(self, kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
        _on_kernels(monkeypatch, "bamba")
        own = row(BAMBA, kind).activation_bytes_by_policy[0, 0]
        assert own == pytest.approx(_saved(BAMBA, kind), rel=0.003)

    def test_of_lightning_attention_are_less_than_in_python(self) -> None:
        """Its loop in Python keeps scores and a state of each block."""
        assert 0.4 < row(MINIMAX, 0).activation_bytes_by_policy[0, 0] / _saved(MINIMAX, 0) < 0.9

    def test_norm_and_projection_behind_the_kernel_keep_two_more_tensors(self) -> None:
        block = read(NEMOTRON).layer_classes[0]
        attention = block.attention
        assert isinstance(attention, Mamba2)
        inside = recurrence_bytes(attention, 2, 0, one_kernel=True)
        assert recurrence_bytes(attention, 2, 0, one_kernel=False) == inside + 2 * 2 * 256
        megatron = operators.saved_bytes(block, training(stack="megatron-core-0.15"), HIDDEN, 1, 1)
        norm = 2 * HIDDEN  # its input, beside what the projection reads
        assert float(megatron) == inside + 2 * 2 * 256 + norm + 2 * HIDDEN


class TestOneSublayer:
    def test_has_one_residual_and_one_exchange_over_tp(self) -> None:
        chosen = candidates(tp=2)
        both, *single = read(BAMBA).layer_classes[0], *read(NEMOTRON).layer_classes
        assert [int(hidden_pairs(block, chosen)[0]) for block in (both, *single)] == [2, 1, 1, 1, 1]
        spread = candidates(ep=2, dp_shard=2)
        assert int(hidden_pairs(single[3], spread)[0]) == 1  # that of the shared expert
        assert int(hidden_pairs(single[3].model_copy(update={"attention": both.attention}), spread)[0]) == 2

    def test_of_a_feed_forward_has_no_attention(self) -> None:
        found, of_attention = row(NEMOTRON, 1, cp=2), row(NEMOTRON, 2, cp=2)
        assert found.context_parallel_forward_seconds[0] == 0 < of_attention.context_parallel_forward_seconds[0]
        block = read(NEMOTRON).layer_classes[1]
        assert block.attention == NoAttention()
        assert attention_core_flops(block, training(), SEQ, 1, causal=False) == 0
        # two matmuls, forward and backward, of 96 columns
        assert found.parameters[0] == 2 * HIDDEN * 96 + HIDDEN

    def test_is_one_or_the_other(self) -> None:
        layer = read(NEMOTRON).layer_classes[1]
        with pytest.raises(ValueError, match="neither attention nor a feed-forward"):
            Block(attention=layer.attention, ffn=read(NEMOTRON).layer_classes[0].ffn)

    def test_has_a_part_of_the_launches(self) -> None:
        """22 of 34 launches of a layer are those of attention with its norm and residual."""
        model = read(NEMOTRON)
        frame = WorkModel(model, training(), RoundTimes(), candidates())
        found = [float(LayerWork(frame, block, 0.0)._kernels.forward[0]) for block in model.layer_classes[:3]]
        whole = float(LayerWork(frame, read(BAMBA).layer_classes[0], 0.0)._kernels.forward[0])
        assert found == pytest.approx([whole * 22 / 34, whole * 12 / 34, whole * 22 / 34])


class TestMoved:
    def test_states_of_mamba_outweigh_what_is_computed(self) -> None:
        """By hand: four passes over 8 x 16 x 32 fp32 numbers every 8 tokens, three tensors of 256 columns, four of 32."""
        attention = read(NEMOTRON).layer_classes[0].attention
        assert isinstance(attention, Mamba2)
        assert recurrence_moved_bytes(attention, 2, backward=False) == 4 * 4 * 4096 / 8 + 2 * (3 * 256 + 4 * 32)
        assert recurrence_moved_bytes(attention, 2, backward=True) == 8 * 4 * 4096 / 8 + 2 * (9 * 256 + 8 * 32)


class TestContext:
    def test_a_decay_is_one_number_a_head(self) -> None:
        mamba = Mamba2(heads=8, key_heads=4, key_size=10, value_size=20, chunk=10)
        job = TrainingSpec(seq_len=8, global_batch=8, stack="megatron-core-0.15")
        chosen, times = candidates(cp=4, micro_batch=2), RoundTimes(node=round_cluster().node)
        exchange = LinearExchange(job, times, chosen, np.array([1e6]), 100, 0.0)
        nothing = np.zeros(1)
        # by heads, in Megatron-Core: what projections give and outputs, in bf16
        moved = 1e6 * (mamba.input_width + 160) * 2 * 1e-9
        assert exchange.pass_seconds(mamba, nothing, nothing).forward[0] == pytest.approx(moved)
        # eight ranks for four groups: each is sent twice
        twice = LinearExchange(job, times, candidates(cp=8, micro_batch=2), np.array([1e6]), 100, 0.0)
        again = 1e6 * 2 * 40 * 2 * 1e-9
        assert twice.pass_seconds(mamba, nothing, nothing).forward[0] == pytest.approx(moved + again)
        lightning = Lightning(heads=8, key_heads=8, key_size=10, value_size=20, chunk=10)
        states = 4 * 2 * 8 * 10 * 20 * 4 * 1e-9
        assert exchange.pass_seconds(lightning, nothing, nothing).forward[0] == pytest.approx(states)

    def test_feed_forwards_between_them_leave_tokens_where_they_are(self) -> None:
        pattern = NEMOTRON | {"hybrid_override_pattern": "M-M-*-M-"}
        assert layout_changes(read(pattern)) == pytest.approx(4 / 3)


class TestPresets:
    @pytest.mark.parametrize(
        ("name", "kinds"),
        [("nemotron-h-8b", [24, 24, 4]), ("nemotron-3-nano-30b-a3b", [23, 23, 6]), ("minimax-text-01", [70, 10])],
    )
    def test_have_as_many_layers_of_each_kind_as_published(self, name: str, kinds: list[int]) -> None:
        model = load_model(name)
        assert [model.class_of_layer.count(kind) for kind in range(len(kinds))] == kinds


def _on_kernels(monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    place = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    monkeypatch.setattr(place, "mamba2_split_conv1d_scan_combined", _combined)


def _real_layer(config: Mapping[str, Any], kind: int, device: str) -> Any:
    model, spec = build_on_meta(config), read(config)
    layer = decoder_layers(model, spec.layer_count)[spec.class_of_layer.index(kind)]
    if device == "meta":
        return layer.to(torch.bfloat16).train()
    layer.to_empty(device=device)
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            nn.init.uniform_(tensor, 0.0, 0.1)
    return layer


def _saved(config: Mapping[str, Any], kind: int) -> int:
    """Bytes that autograd keeps of a layer in 16 bits."""
    layer = _real_layer(config, kind, "meta")
    layer_config = next(part.config for part in layer.modules() if hasattr(part, "config")) if kind else None
    if layer_config is not None:
        layer_config._attn_implementation = "sdpa"
    hidden = torch.empty(BATCH, SEQ, HIDDEN, dtype=torch.bfloat16, device="meta", requires_grad=True)
    tables = tuple(torch.empty(1, SEQ, 16, dtype=torch.bfloat16, device="meta") for _ in range(2))
    options = {} if config["model_type"] == "nemotron_h" else {"position_embeddings": tables}
    with _counting(layer, *tables) as sizes, on_a_gpu():
        layer(hidden, attention_mask=None, **options)
    return sum(sizes.values())
