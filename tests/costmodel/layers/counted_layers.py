"""What torch's autograd saves of one layer, counted on the meta device: every distinct storage once.

Parameters and buffers don't count, nor what a layer is given beside its hidden states: rotary tables and the attention mask,
which all layers of a stage share. The layer's input counts where autograd keeps it.
"""

import contextlib
import copy
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.model import (
    MeshRanks,
    Skeleton,
    divide_layer,
    flatten_experts,
    layer_division,
    read_skeleton,
    unfuse,
)
from shardwright.executor.model.stage_module import StageModule
from shardwright.executor.recompute import Repetition
from shardwright.profiler.probes.compute.real_layer import RealLayer, layer_skeleton
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import LayerRun, RecomputePolicy, Stage
from shardwright.specs.training import TrainingSpec
from tests.parity.cases import plan, plan_file

from .tensor_parallel_rules import RULES, divide, prepare, stream_layout

SEQ = 32
META = torch.device("meta")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Layout(NamedTuple):
    """How a layer is run. `mesh`: of two tp ranks, None on one."""

    policy: RecomputePolicy = "none"
    mesh: DeviceMesh | None = None
    sequence_parallel: bool = False
    batch: int = 2

    @property
    def tp(self) -> int:
        return self.mesh.size() if self.mesh else 1

    def hidden(self, size: int, dtype: torch.dtype) -> Tensor:
        """Return the residual stream of this rank."""
        rows = SEQ // self.tp if self.sequence_parallel else SEQ
        return torch.empty(self.batch, rows, size, dtype=dtype, device=META, requires_grad=True)


def gpu_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` with the kernel that torch takes on a GPU, whose autograd runs without one too.

    The flash kernel takes no mask and one size of head. The memory-efficient one takes both, but no grouped keys
    (aten/src/ATen/native/transformers/cuda/sdp_utils.cpp). Other inputs have no fused kernel.
    """
    grouped = key.shape[1] != query.shape[1]
    assert enable_gqa or not grouped
    if attn_mask is None and query.shape[-1] == value.shape[-1]:
        flash: Any = torch.ops.aten._scaled_dot_product_flash_attention
        out: Tensor = flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
        return out
    assert not grouped
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    efficient: Any = torch.ops.aten._scaled_dot_product_efficient_attention
    other: Tensor = efficient(query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale)[0]
    return other


@contextlib.contextmanager
def on_a_gpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", gpu_attention)
        yield


def saved_by_stage(config: Mapping[str, Any], training: TrainingSpec, layout: Layout) -> list[int]:
    """Bytes of each storage that the second of two layers of the executor's stage keeps, and the first does not."""
    return _saved_by_layers(config, training, layout, 2)[-1]


def saved_by_head(config: Mapping[str, Any], training: TrainingSpec, layout: Layout) -> list[int]:
    """Bytes of each storage that final norm and head of the executor's last stage keep, before the loss."""
    (whole,), (layer,) = (_saved_by_layers(config, training, layout, 1, head=head) for head in (True, False))
    return list((Counter(whole) - Counter(layer)).elements())


def _saved_by_layers(
    config: Mapping[str, Any], training: TrainingSpec, layout: Layout, count: int, *, head: bool = False
) -> list[list[int]]:
    """Bytes of each storage that is kept up to the end of each layer, and not before; all at once with a head."""
    total = count + 2  # one before and one after them, which are no part of the stage
    layers: dict[str, Any] = {"n_layer" if "n_layer" in config else "num_hidden_layers": total}
    layers |= {"layer_types": config["layer_types"] * total} if "layer_types" in config else {}
    layers |= {"first_k_dense_replace": total} if config.get("first_k_dense_replace") else {}
    run = LayerRun(count=total, recompute=layout.policy)
    chosen = plan((run,), tp=layout.tp, sequence_parallel=layout.sequence_parallel)
    compute: Literal["bf16", "fp32"] = "bf16" if training.precision.compute == "bf16" else "fp32"
    file = plan_file({**config, **layers}, chosen, compute=compute, attention=training.attention, seq_len=SEQ)
    skeleton = _skeleton(file)
    first, own = (2, total - 2) if head else (1, count)
    strategies = list(Stage(layers=(run.model_copy(update={"count": own}),)).each_layer())
    stage = StageModule(skeleton, first, strategies, seq_len=SEQ)
    repetition = Repetition.of(training, layout.policy)
    for path in stage.layer_paths:
        layer = stage.get_submodule(path)
        unfuse(layer, skeleton.config)
        if layout.mesh:
            division = layer_division(skeleton.model, layer, skeleton.structure.layers, skeleton.name)
            divide_layer(
                layer,
                division,
                MeshRanks(layout.mesh),
                sequence_parallel=layout.sequence_parallel,
                within=repetition.within,
            )
        else:
            flatten_experts(layer)
            for region in layer.children():
                repetition.within(region, 1)
        repetition.around(layer)
    stage.to(DTYPES[compute]).train()
    hidden = layout.hidden(skeleton.config.hidden_size, DTYPES[compute])
    with _counting(stage) as sizes, on_a_gpu():
        ends: list[int] = []
        for path in () if head else stage.layer_paths:
            stage.get_submodule(path).register_forward_hook(lambda *_given: ends.append(len(sizes)))
        stage(hidden)
    kept = list(sizes.values())
    return [kept[start:end] for start, end in pairwise([0, *ends[:-1], len(kept)])]


def _skeleton(file: PlanFile) -> Skeleton:
    """A copy of the skeleton, as the engine divides it in place. Reading one takes half of the time of a case."""
    key = f"{file.model_config_json} {file.training.attention}"
    if key not in _skeletons:
        _skeletons[key] = read_skeleton(file)
    return copy.deepcopy(_skeletons[key])


_skeletons: dict[str, Skeleton] = {}


def saved_by_layer(model: ModelSpec, training: TrainingSpec, layout: Layout) -> list[int]:
    """Bytes of each storage that transformers' own layer keeps, divided by `RULES` over tp."""
    family, dtype = model.family, DTYPES[training.precision.compute]
    if family in _WITH_ALIBI:
        built = _with_alibi(model, layout, dtype)
    else:
        built = layer_skeleton(model, model.layer_classes[0], training, layout.batch, dtype).build(META)
    real = RealLayer(built.layer.train(), layout.hidden(model.hidden_size, dtype), built.arguments, built.options)
    if layout.mesh:
        prepare(real.layer, layout.tp)
        divide(real.layer, layout.mesh, RULES[family](stream_layout(sequence_parallel=layout.sequence_parallel)))
    if layout.policy == "selective" and training.attention == "unfused":
        _recompute_core(real.layer)
    shared = [tensor for value in (*real.arguments, *real.options.values()) for tensor in _tensors(value)]
    with _counting(real.layer, *shared) as sizes, on_a_gpu():
        real.forward(recompute=layout.policy == "full")
    return list(sizes.values())


_WITH_ALIBI = ("bloom", "mpt")


def _with_alibi(model: ModelSpec, layout: Layout, dtype: torch.dtype) -> RealLayer:
    """Build the first layer of BLOOM or MPT, with the biases of a rank's heads on its scores, and the causal mask."""
    config = AutoConfig.for_model(**model.config)
    with META:
        build: Any = AutoModelForCausalLM.from_config
        whole = build(config, attn_implementation="eager", dtype=dtype)
    heads = model.layer_classes[0].attention.heads // layout.tp
    if model.family == "bloom":
        bias = torch.empty(layout.batch * heads, 1, SEQ, dtype=dtype, device=META)
        mask = torch.empty(1, 1, SEQ, SEQ, dtype=dtype, device=META)
        return RealLayer(whole.transformer.h[0], layout.hidden(model.hidden_size, dtype), (bias, mask), {})
    options = {
        "position_bias": torch.empty(heads, 1, SEQ, dtype=dtype, device=META),
        "attention_mask": torch.empty(1, 1, SEQ, SEQ, dtype=torch.bool, device=META),
    }
    return RealLayer(whole.transformer.blocks[0], layout.hidden(model.hidden_size, dtype), (), options)


def _recompute_core(layer: nn.Module) -> None:
    """As the executor's `recompute_core`, for a family that it does not train."""
    attention: Any = next(getattr(layer, name) for name in ("self_attn", "attention") if hasattr(layer, name))
    eager = sys.modules[type(attention).__module__].eager_attention_forward

    def recomputed(module: nn.Module, *tensors: Tensor | None, **options: Any) -> Any:
        return checkpoint(eager, module, *tensors, use_reentrant=False, preserve_rng_state=False, **options)

    AttentionInterface.register("counted_recomputed", recomputed)
    attention.config = copy.copy(attention.config)
    attention.config._attn_implementation = "counted_recomputed"


@contextlib.contextmanager
def _counting(module: nn.Module, *shared: Tensor) -> Iterator[dict[int, int]]:
    """Collect the storages that autograd saves, by identity, with their bytes."""
    held: list[Tensor] = []  # a freed storage's identity would be used again
    ignored = {_storage(tensor)._cdata for tensor in (*module.parameters(), *module.buffers(), *shared)}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        held.append(tensor)
        storage = _storage(tensor)
        if storage._cdata not in ignored:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


def _storage(tensor: Tensor) -> Any:
    local = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
    return getattr(local, "elem", local).untyped_storage()


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for each in value for tensor in _tensors(each)] if isinstance(value, tuple) else []
