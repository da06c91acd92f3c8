from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from shardwright.costmodel.op_times.protocol import Operator
from shardwright.executor.passes.loss import TokenLoss
from shardwright.profiler.probes.compute.operator import OperatorProbe
from shardwright.profiler.probes.compute.operator_work import BACKWARD_APART, FORWARD, Operands
from shardwright.profiler.timing.live_bytes import LiveBytes
from shardwright.profiler.timing.probe import Sizes, UnavailableError, Work
from shardwright.specs.profile import Format
from tests.profiler.kernel_trace import Kernel, kernels_of
from tests.profiler.steady_machine import SteadyMachine

_BATCH_TENSOR_OPERATORS = {"adamw", "sgd", "clip"}
_CPU = torch.device("cpu")
_ROWS, _WIDTH = 24, 128


def _probe(operator: Operator, backward: bool, number_format: Format = "fp32", **options: Any) -> OperatorProbe:
    return OperatorProbe(operator, backward, number_format, (), **options)


def _work(operator: Operator, backward: bool, number_format: Format = "fp32", **options: Any) -> Work:
    probe = _probe(operator, backward, number_format, **options)
    at: Sizes = (96.0, float(_WIDTH), float(_ROWS)) if len(probe.axes) == 3 else (float(_ROWS), float(_WIDTH))
    return probe.prepare(at, SteadyMachine())


def _passes() -> list[tuple[Operator, bool]]:
    return [*((operator, False) for operator in FORWARD), *((o, True) for o in {**FORWARD, **BACKWARD_APART})]


def test_every_memory_bound_operator_is_there() -> None:
    assert set(FORWARD) | set(BACKWARD_APART) | _BATCH_TENSOR_OPERATORS == set(get_args(Operator))


def _leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=True)


def _llama_norm(dtype: torch.dtype) -> tuple[Callable[[], Tensor], list[Tensor]]:
    norm, x = LlamaRMSNorm(_WIDTH).to(dtype), _leaf(_ROWS, _WIDTH, dtype=dtype)
    return lambda: norm(x), [x, norm.weight]


def _llama_rotary(dtype: torch.dtype) -> tuple[Callable[[], tuple[Tensor, ...]], list[Tensor]]:
    query, key = (_leaf(1, _ROWS, 1, 64, dtype=dtype) for _ in range(2))
    cosine, sine = (torch.randn(1, _ROWS, 64, dtype=dtype) for _ in range(2))
    heads = [each.detach().transpose(1, 2).requires_grad_() for each in (query, key)]
    return lambda: apply_rotary_pos_emb(*heads, cosine, sine), heads


def _llama_gate(dtype: torch.dtype) -> tuple[Callable[[], Tensor], list[Tensor]]:
    gate, up = _leaf(_ROWS, _WIDTH, dtype=dtype), _leaf(_ROWS, _WIDTH, dtype=dtype)
    return lambda: functional.silu(gate) * up, [gate, up]


def _token_loss(dtype: torch.dtype) -> tuple[Callable[[], Tensor], list[Tensor]]:
    loss, logits = TokenLoss(vocab_size=_WIDTH, tp_mesh=None), _leaf(1, _ROWS, _WIDTH, dtype=dtype)
    labels = torch.randint(0, _WIDTH, (1, _ROWS))
    return lambda: loss(logits, labels), [logits]


_MIRRORED: dict[Operator, Callable[[torch.dtype], tuple[Callable[[], Any], list[Tensor]]]] = {
    "eager_rmsnorm": _llama_norm,
    "eager_rotary": _llama_rotary,
    "eager_gated_activation": _llama_gate,
    "cross_entropy": _token_loss,
}


@pytest.mark.parametrize("number_format", ["fp32", "bf16"])
@pytest.mark.parametrize("operator", _MIRRORED)
def test_eager_operators_run_the_kernels_of_the_real_thing(operator: Operator, number_format: Format) -> None:
    forward, leaves = _MIRRORED[operator](torch.float32 if number_format == "fp32" else torch.bfloat16)
    assert _named(kernels_of(_work(operator, False, number_format))) == _named(kernels_of(forward))
    results = forward()
    results = results if isinstance(results, tuple) else (results,)
    gradients = [torch.randn_like(each) for each in results]
    real = kernels_of(lambda: torch.autograd.grad(results, leaves, gradients, retain_graph=True))
    assert sorted(_named(kernels_of(_work(operator, True, number_format)))) == sorted(_named(real))


def _named(kernels: list[Kernel]) -> list[str]:
    """Kernels by name, shapes and formats; a factor that is a number in one and a tensor in the other is the same."""
    return [f"{name} {[(shape, dtype) for shape, _, dtype in tensors]}" for name, tensors in kernels]


def _reference(operator: Operator, leaves: tuple[Tensor, ...]) -> Tensor:
    x = leaves[0]
    if operator in ("rmsnorm", "eager_rmsnorm"):
        return leaves[1] * x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt()
    if operator == "layernorm":
        centred = x - x.mean(1, keepdim=True)
        return leaves[1] * centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() + leaves[2]
    if operator == "addition":
        return x + leaves[1]
    if operator == "gated_activation":
        return x[:, :_WIDTH] * x[:, _WIDTH:].sigmoid()
    if operator == "eager_gated_activation":
        return x * x.sigmoid() * leaves[1]
    if operator == "activation":
        return x * (1 + torch.erf(x / 2**0.5)) / 2
    assert operator == "copy"
    return x.transpose(1, 2)


@pytest.mark.parametrize(
    "operator",
    [
        "rmsnorm",
        "eager_rmsnorm",
        "layernorm",
        "addition",
        "gated_activation",
        "eager_gated_activation",
        "activation",
        "copy",
    ],
)
def test_what_is_computed_is_the_operator(operator: Operator) -> None:
    graph = FORWARD[operator](Operands(torch.float32, _CPU), _ROWS, _WIDTH)
    out = graph.forward()
    assert isinstance(out, Tensor)
    torch.testing.assert_close(out, _reference(operator, graph.leaves))
    assert out.is_contiguous()


def test_a_gradient_that_is_work_of_its_own_is_that_of_autograd() -> None:
    new = Operands(torch.float32, _CPU)
    x = _leaf(_ROWS, _WIDTH)
    twice = kernels_of(lambda: torch.autograd.grad((x.view_as(x), x.view_as(x)), x, (x.detach(), x.detach())))
    assert _named(twice) == _named(kernels_of(BACKWARD_APART["addition"](new, _ROWS, _WIDTH).forward))
    bias, weight = _leaf(_WIDTH), torch.randn(_WIDTH, 16)
    out = functional.linear(torch.randn(_ROWS, 16), weight, bias)
    gradient = torch.randn_like(out)
    summed = kernels_of(lambda: torch.autograd.grad(out, bias, gradient))
    assert _named(summed) == _named(kernels_of(BACKWARD_APART["column_sum"](new, _ROWS, _WIDTH).forward))
    copied = BACKWARD_APART["copy"](new, _ROWS, _WIDTH).forward()
    assert isinstance(copied, Tensor)
    assert (copied.shape, copied.is_contiguous()) == ((1, _WIDTH // 64, _ROWS, 64), True)


@pytest.mark.parametrize(("operator", "backward"), _passes())
def test_rows_times_width_are_the_elements_that_the_cost_model_counts(operator: Operator, backward: bool) -> None:
    """Of a norm's input, an activation's gate, queries and keys together, what an embedding gives, the logits."""
    result = _work(operator, backward)()
    results = result if isinstance(result, tuple) else (result,)
    elements = [each.numel() for each in results if isinstance(each, Tensor)]
    if operator == "embedding" and backward:
        assert elements == [96 * _WIDTH]
    elif operator == "eager_rotary":
        assert sum(elements) == _ROWS * _WIDTH
    elif operator == "column_sum" or (operator == "cross_entropy" and not backward):
        assert elements in ([_WIDTH], [1])
    elif operator == "gated_activation" and backward:
        assert elements == [2 * _ROWS * _WIDTH]
    else:
        assert elements[0] == _ROWS * _WIDTH


def test_an_embeddings_gradient_has_its_table_and_its_tokens() -> None:
    probe = _probe("embedding", True, vocabulary=5)
    assert probe.axes == ("rows", "width", "tokens")
    assert _probe("embedding", False).axes == ("rows", "width")
    gradients = probe.prepare((300.0, 16.0, 40.0), SteadyMachine())()
    assert isinstance(gradients, tuple)
    (gradient,) = gradients
    assert gradient.shape == (300, 16)
    assert 25 <= int((gradient.abs().sum(1) > 0).sum()) <= 40


def test_rotation_turns_by_a_quarter_where_the_cosine_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    new = Operands(torch.float32, _CPU, head_size=4)
    tables = iter([torch.zeros(1, 3, 4), torch.ones(1, 3, 4)])
    monkeypatch.setattr(Operands, "plain", lambda *_: next(tables))
    graph = FORWARD["eager_rotary"](new, 3, 12)
    query, key = graph.forward()
    assert (query.shape, key.shape) == ((1, 2, 3, 4), (1, 1, 3, 4))
    expected = torch.cat((-graph.leaves[0][..., 2:], graph.leaves[0][..., :2]), -1)
    torch.testing.assert_close(query, expected)


def test_heads_of_a_size_that_does_not_divide_the_width_become_smaller_ones() -> None:
    out = _probe("copy", False, head_size=192).prepare((8.0, 2048.0), SteadyMachine())()
    assert isinstance(out, Tensor)
    assert out.shape == (1, 8, 32, 64)


@pytest.mark.parametrize("number_format", ["fp32", "bf16"])
@pytest.mark.parametrize(("operator", "backward"), _passes())
def test_no_more_memory_is_taken_than_asked_for_and_not_much_less(
    operator: Operator, backward: bool, number_format: Format
) -> None:
    probe = _probe(operator, backward, number_format, vocabulary=1024)
    at: Sizes = (1024.0, 1024.0, 512.0) if len(probe.axes) == 3 else (1024.0, 1024.0)
    needed_bytes = probe.needed_bytes(at)
    with LiveBytes() as live:
        work = probe.prepare(at, SteadyMachine())
        for _ in range(20):
            work()
    assert live.peak <= needed_bytes <= 3 * live.peak + 64 * 2**20


def test_formats_that_activations_never_have_are_refused() -> None:
    with pytest.raises(UnavailableError, match="addition is not computed in fp8"):
        _work("addition", False, "fp8")
    with pytest.raises(UnavailableError, match="tf32 needs a CUDA device"):
        _work("addition", False, "tf32")


def test_between_keeps_whole_heads() -> None:
    assert _probe("eager_rotary", False, head_size=80).between((128.0, 160.0), (2048.0, 2560.0)) == (512.0, 640.0)
    assert _probe("embedding", True).between((1000.0, 64.0, 128.0), (1000.0, 256.0, 512.0)) == (1000.0, 128.0, 256.0)
