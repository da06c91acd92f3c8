"""The traffic that the cost model says a layer has, beside that of the kernels that torch runs for transformers' layer."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import GptOssConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

from shardwright.catalog.huggingface.families import model_from_config
from shardwright.costmodel.layers.traffic import (
    _BIAS_PASSES,
    _BIAS_PASSES_BY_EXPERT,
    _CLAMPED_PASSES,
    _FP32_PERMUTATION_PASSES,
    _UNFUSED_PERMUTATION_PASSES,
    backward_traffic,
    forward_traffic,
)
from shardwright.costmodel.op_times.passes import FOREACH_UPDATE_PASSES, score_passes
from shardwright.profiler.probes.compute.real_layer import RealLayer, layer_skeleton
from shardwright.specs.training import Precision, TrainingSpec
from tests.executor.parallel.test_kernel_counts import VIEWS

from .counted_layers import DTYPES, META, on_a_gpu
from .test_saved_tensors import DENSE, MODELS
from .test_traffic import totals

# What another part of the cost model counts: matmuls, and attention with the kernels around it.
ELSEWHERE = {"mm", "bmm", "addmm", *(f"_scaled_dot_product_flash_attention{end}" for end in ("", "_backward"))}
LENGTH, HIDDEN = 512, 512
SIZES = {"hidden_size": HIDDEN, "intermediate_size": 1024, "num_attention_heads": 8}
GPT2 = {"model_type": "gpt2", "n_embd": HIDDEN, "n_layer": 1, "n_head": 8, "n_positions": 4096, "vocab_size": 256}
NO_DROPOUT = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "activation_function": "gelu_pytorch_tanh"}
CONFIGS: dict[str, dict[str, Any]] = {
    **{name: MODELS[name] | DENSE | SIZES for name in ("llama", "qwen2", "mistral")},
    "qwen3": MODELS["qwen3"] | SIZES | {"head_dim": 64},
    "gpt2": GPT2 | NO_DROPOUT,
}


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves its base untyped
    """Bytes that operators read and write; broadcast elements count once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # likewise
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in VIEWS or name in ELSEWHERE or name.startswith(("empty", "new_empty")):
            return result
        read, written = (sum(map(_bytes, tree_leaves(side))) for side in ((args, kwargs), result))
        if result is None and name.endswith("_"):  # lists of tensors in place
            written = sum(map(_bytes, args[0]))
        if name == "native_layer_norm_backward":  # one kernel for the input, one for weight and bias
            read *= 2
        self.moved += read + written
        return result


def _bytes(value: Any) -> int:
    if not isinstance(value, Tensor):
        return 0
    elements = 1
    for size, stride in zip(value.shape, value.stride(), strict=True):
        elements *= size if stride else 1
    return elements * value.element_size()


def counted(config: dict[str, Any], training: TrainingSpec) -> tuple[float, float]:
    """Elements for each token that a layer's forward and backward move, in units of the hidden size."""
    model = model_from_config(config, name="counted", source="test")
    dtype = DTYPES[training.precision.compute]
    built = layer_skeleton(model, model.layer_classes[0], training, 1, dtype).build(META)
    given = torch.empty(1, training.seq_len, HIDDEN, dtype=dtype, device=META, requires_grad=True)
    hidden = given * 1  # no leaf, so that its gradient is not copied
    layer = RealLayer(built.layer.train(), hidden, built.arguments, built.options)
    with on_a_gpu():
        with _Traffic() as forward:
            output = layer.forward()
        with _Traffic() as backward:
            torch.autograd.grad(output, [hidden, *layer.layer.parameters()], torch.empty_like(output))
    unit = training.seq_len * HIDDEN * dtype.itemsize
    return forward.moved / unit, backward.moved / unit


def job(compute: Literal["bf16", "fp32"], attention: str = "flash", seq_len: int = LENGTH) -> TrainingSpec:
    given = {"seq_len": seq_len, "global_batch": 1, "attention": attention, "precision": Precision(compute=compute)}
    return TrainingSpec.parse(given, source="test")


@pytest.mark.parametrize("compute", ["bf16", "fp32"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_layer_moves_what_its_kernels_move(name: str, compute: Literal["bf16", "fp32"]) -> None:
    training = job(compute)
    model = model_from_config(CONFIGS[name], name=name, source="test")
    real = counted(CONFIGS[name], training)
    for traffic, moved in zip((forward_traffic, backward_traffic), real, strict=True):
        said = sum(totals(traffic(model.layer_classes[0], model, training), DTYPES[compute].itemsize)) / HIDDEN
        assert said == pytest.approx(moved, rel=0.02)


@pytest.mark.parametrize(
    ("name", "compute", "casts"), [("llama", "bf16", True), ("llama", "fp32", False), ("gpt2", "bf16", False)]
)
def test_scores_move_what_their_kernels_move(name: str, compute: Literal["bf16", "fp32"], casts: bool) -> None:
    """The difference between unfused and fused attention, less the copies of the output. GPT-2 casts nothing."""
    heads, length = SIZES["num_attention_heads"], 4096
    fused, unfused = (counted(CONFIGS[name], job(compute, attention, length)) for attention in ("flash", "unfused"))
    passes = score_passes(fused=False, casts=casts)
    for said, with_scores, without in zip(passes, unfused, fused, strict=True):
        assert said == pytest.approx((with_scores - without) * HIDDEN / (heads * length), rel=0.05)


def test_the_clamped_gate_of_gpt_oss_moves_what_its_kernels_move() -> None:
    rows, width = 512, 64
    config = GptOssConfig(hidden_size=width, intermediate_size=width, num_local_experts=2)
    with torch.device(META):
        experts = GptOssExperts(config)  # type: ignore[no-untyped-call] # transformers leaves it untyped
        given = torch.empty(rows, 2 * width, dtype=torch.bfloat16, requires_grad=True) * 1
    with _Traffic() as forward:
        output = experts._apply_gate(given)
    with _Traffic() as backward:
        torch.autograd.grad(output, [given], torch.empty_like(output))
    unit = rows * width * 2
    assert (forward.moved / unit, backward.moved / unit) == pytest.approx(_CLAMPED_PASSES, rel=0.001)


def test_an_unfused_permutation_moves_what_its_kernels_move() -> None:
    """Product, zeros, scatter_add and index_select of eight copies a token; two passes each way are counted elsewhere."""
    tokens, copies, width = 512, 8, 1024
    with torch.device(META):
        given = torch.empty(tokens, width, dtype=torch.bfloat16, requires_grad=True) * 1
        back = torch.empty(tokens * copies, width, dtype=torch.bfloat16, requires_grad=True) * 1
        weights = torch.empty(tokens * copies, 1, dtype=torch.bfloat16, requires_grad=True) * 1
        place = torch.empty(tokens * copies, dtype=torch.int64)
        zeros = torch.zeros(tokens, width, dtype=torch.bfloat16)
    with _Traffic() as forward:
        sent = given.index_select(0, place)
        summed = zeros.scatter_add(0, place.unsqueeze(1).expand(-1, width), back * weights)
    with _Traffic() as backward:
        torch.autograd.grad(sent, [given], torch.empty_like(sent))
        torch.autograd.grad(summed, [back, weights], torch.empty_like(summed))
    unit = tokens * copies * width * 2
    assert forward.moved / unit == pytest.approx(4 + _UNFUSED_PERMUTATION_PASSES[0], rel=0.05)
    assert backward.moved / unit == pytest.approx(4 + _UNFUSED_PERMUTATION_PASSES[1], rel=0.02)


@pytest.mark.parametrize("before", [True, False], ids=["before the experts", "after them"])
def test_weighing_tokens_in_fp32_moves_what_its_kernels_move(before: bool) -> None:
    """Eight copies a token are gathered, widened, multiplied, narrowed, and added up by scatter_add."""
    tokens, copies, width = 512, 8, 1024
    with torch.device(META):
        given, shared = (torch.empty(tokens, width, dtype=torch.bfloat16, requires_grad=True) * 1 for _ in "ab")
        back = torch.empty(tokens * copies, width, dtype=torch.bfloat16, requires_grad=True) * 1
        weights = torch.empty(tokens * copies, 1, requires_grad=True) * 1
        place = torch.empty(tokens * copies, 1, dtype=torch.int64).expand(-1, width)
    with _Traffic() as forward:
        sent, added = given.gather(0, place), back
        if before:
            sent = (sent.float() * weights).bfloat16()
        else:
            added = (added.float() * weights).bfloat16()
        summed = shared.scatter_add(0, place, added)
    with _Traffic() as backward:
        torch.autograd.grad(sent, [given, weights] if before else [given], torch.empty_like(sent))
        torch.autograd.grad(summed, [back] if before else [back, weights], torch.empty_like(summed))
    unit = tokens * copies * width * 2
    assert forward.moved / unit == pytest.approx(4 + _FP32_PERMUTATION_PASSES[0], rel=0.01)
    assert backward.moved / unit == pytest.approx(4 + _FP32_PERMUTATION_PASSES[1], rel=0.01)


def test_biases_of_experts_move_what_their_kernels_move() -> None:
    """Megatron-Core weighs the bias by the token's weight in fp32; transformers writes one for each token and adds it."""
    experts, each, width = 4, 256, 512
    with torch.device(META):
        biases = torch.empty(experts, width, dtype=torch.bfloat16, requires_grad=True)
        outputs = torch.empty(experts * each, width, dtype=torch.bfloat16, requires_grad=True) * 1
        weights = torch.empty(experts * each, 1, requires_grad=True) * 1
        chosen = torch.zeros(experts * each, dtype=torch.int64)
    unit = experts * each * width * 2
    with _Traffic() as forward:
        triples = zip(torch.split(outputs, each), biases, torch.split(weights, each), strict=True)
        biased = torch.cat([rows + bias * weight for rows, bias, weight in triples]).bfloat16()
    with _Traffic() as backward:
        torch.autograd.grad(biased, [outputs, weights, biases], torch.empty_like(biased))
    assert forward.moved / unit == pytest.approx(_BIAS_PASSES_BY_EXPERT[0], rel=0.01)
    assert backward.moved / unit == pytest.approx(_BIAS_PASSES_BY_EXPERT[1], rel=0.01)
    with _Traffic() as forward:
        added = outputs.add_(biases[chosen])
    with _Traffic() as backward:
        torch.autograd.grad(added, [biases], torch.empty_like(added))
    assert forward.moved / unit == pytest.approx(_BIAS_PASSES[0], rel=0.01)
    assert backward.moved / unit == pytest.approx(
        _BIAS_PASSES[1] + 1, rel=0.01
    )  # the sum of the gradients is counted apart


def test_an_update_by_foreach_kernels_moves_twenty_elements_a_parameter() -> None:
    """Each parameter of a list counts; the square of the gradient reads it once, though torch gets it twice."""
    weight = torch.nn.Parameter(torch.ones(4096))
    weight.grad = torch.ones(4096)
    optimizer = torch.optim.AdamW([weight], foreach=True)
    optimizer.step()
    with _Traffic() as update:
        optimizer.step()
    assert update.moved / (4096 * 4) == pytest.approx(FOREACH_UPDATE_PASSES["adamw"] + 1, rel=0.01)
