import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention

from shardwright.profiler.probes.compute.attention import AttentionProbe, Backend
from shardwright.profiler.probes.compute.defaults import named_backends
from shardwright.profiler.timing.live_bytes import LiveBytes
from shardwright.profiler.timing.probe import Sizes, UnavailableError
from shardwright.specs.profile import Format
from tests.profiler.kernel_trace import Kernel, kernels_of
from tests.profiler.steady_machine import SteadyMachine

_ATTENTION = "attention"


def _core(kernels: list[Kernel]) -> list[Kernel]:
    return [kernel for kernel in kernels if _ATTENTION in kernel[0]]


def _llama_kernels(at: Sizes) -> list[Kernel]:
    """What a Llama layer's attention runs, forward and backward."""
    batch, heads, kv_heads, length, head_size = (int(size) for size in at)
    config = LlamaConfig(
        hidden_size=heads * head_size, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_size
    )
    config._attn_implementation = "sdpa"
    attention: Any = LlamaAttention(config, 0)
    x = torch.randn(batch, length, heads * head_size, requires_grad=True)
    tables = torch.randn(1, length, head_size), torch.randn(1, length, head_size)
    return _core(kernels_of(lambda: attention(x, position_embeddings=tables)[0].sum().backward()))


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_the_kernels_and_their_layouts_are_those_of_a_real_layer(kv_heads: int) -> None:
    at = (2.0, 4.0, float(kv_heads), 32.0, 16.0)
    forward = _core(kernels_of(AttentionProbe(False, "fp32", ()).prepare(at, SteadyMachine())))
    backward = _core(kernels_of(AttentionProbe(True, "fp32", ()).prepare(at, SteadyMachine())))
    real_forward, real_backward = _llama_kernels(at)
    assert [name for name, _ in forward + backward] == [real_forward[0], real_backward[0]]
    assert _layouts(forward[0]) == _layouts(real_forward)
    # the gradient, then queries, keys and values
    assert _layouts(backward[0]) == _layouts(real_backward)


def _layouts(kernel: Kernel) -> list[list[tuple[int, int]]]:
    """(size, stride) of whatever is longer than one."""
    return [
        [(size, stride) for size, stride in zip(shape, strides, strict=True) if size > 1]
        for shape, strides, _ in kernel[1]
    ]


def _reference(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, causal: bool) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -torch.inf)
    weights: torch.Tensor = scores.softmax(-1)
    return weights @ value


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("backend", [None, "math", "flash"])
@pytest.mark.parametrize("sizes", [(2.0, 4.0, 2.0, 24.0, 16.0), (1.0, 2.0, 1.0, 8.0, 320.0)])
def test_attention_is_computed_as_said(
    monkeypatch: pytest.MonkeyPatch, backend: Backend | None, causal: bool, sizes: Sizes
) -> None:
    seen: list[tuple[torch.Tensor, ...]] = []
    attend = AttentionProbe._attend

    def spy(probe: AttentionProbe, *tensors: torch.Tensor) -> torch.Tensor:
        seen.append(tensors)
        return attend(probe, *tensors)

    monkeypatch.setattr(AttentionProbe, "_attend", spy)
    probe = AttentionProbe(False, "fp32", (), causal=causal, backend=backend)
    out = probe.prepare(sizes, SteadyMachine())()
    assert isinstance(out, torch.Tensor)
    torch.testing.assert_close(out, _reference(*seen[-1], causal=causal), rtol=1e-3, atol=1e-4)


def test_a_backward_pass_gives_every_gradient_and_can_be_run_again() -> None:
    work = AttentionProbe(True, "fp32", ()).prepare((1.0, 4.0, 2.0, 32.0, 16.0), SteadyMachine())
    for gradients in (work(), work(), work()):
        assert isinstance(gradients, tuple)
        assert [tuple(each.shape) for each in gradients] == [(1, 4, 32, 16), (1, 2, 32, 16), (1, 2, 32, 16)]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("backend", [None, "math"])
@pytest.mark.parametrize("number_format", ["fp32", "bf16"])
@pytest.mark.parametrize("at", [(2.0, 8.0, 2.0, 512.0, 64.0), (1.0, 4.0, 1.0, 256.0, 320.0)])
def test_no_more_memory_is_taken_than_asked_for_and_not_much_less(
    at: Sizes, backward: bool, backend: Backend | None, number_format: Format
) -> None:
    probe = AttentionProbe(backward, number_format, (), backend=backend)
    with LiveBytes() as live:
        work = probe.prepare(at, SteadyMachine())
        for _ in range(20):
            work()
    assert live.peak <= probe.needed_bytes(at) <= 3 * live.peak + 64 * 2**20


def test_without_a_fused_kernel_the_scores_are_asked_for() -> None:
    short, long = (1.0, 8.0, 8.0, 8192.0, 64.0), (1.0, 8.0, 8.0, 32768.0, 64.0)
    fused, plain = AttentionProbe(False, "fp32", ()), AttentionProbe(False, "fp32", (), backend="math")
    assert fused.needed_bytes(long) < 5 * fused.needed_bytes(short)
    assert plain.needed_bytes(long) > 10 * plain.needed_bytes(short)


@pytest.mark.parametrize("backend", ["efficient", "cudnn"])
def test_a_backend_that_the_device_lacks_is_said(backend: Backend) -> None:
    for backward in (False, True):
        with pytest.raises(UnavailableError, match=f"-{backend} attention in fp32: "):
            AttentionProbe(backward, "fp32", (), backend=backend).prepare((1.0, 2.0, 2.0, 16.0, 16.0), SteadyMachine())


def test_fp8_attention_is_not_torchs() -> None:
    with pytest.raises(UnavailableError, match="fp8"):
        AttentionProbe(False, "fp8", ()).prepare((1.0, 2.0, 2.0, 16.0, 16.0), SteadyMachine())


class TestLatent:
    """Heads of 192 for queries and keys, of 128 for values."""

    at = (2.0, 4.0, 4.0, 64.0, 192.0)

    def test_forward_and_backward(self) -> None:
        out = AttentionProbe(False, "fp32", (), latent=True).prepare(self.at, SteadyMachine())()
        assert isinstance(out, torch.Tensor)
        assert out.shape == (2, 4, 64, 128)
        gradients = AttentionProbe(True, "fp32", (), latent=True).prepare(self.at, SteadyMachine())()
        assert isinstance(gradients, tuple)
        assert [each.shape[-1] for each in gradients] == [192, 192, 128]

    @pytest.mark.parametrize("backward", [False, True])
    def test_memory_is_asked_for(self, backward: bool) -> None:
        probe, at = AttentionProbe(backward, "bf16", (), latent=True), (2.0, 8.0, 8.0, 512.0, 192.0)
        with LiveBytes() as live:
            work = probe.prepare(at, SteadyMachine())
            for _ in range(20):
                work()
        assert live.peak <= probe.needed_bytes(at) <= 3 * live.peak + 64 * 2**20

    def test_its_name(self) -> None:
        assert AttentionProbe(False, "bf16", (), latent=True).variant == "forward-mla"
        assert AttentionProbe(True, "bf16", (), backend="cudnn", latent=True).variant == "backward-cudnn-mla"


class TestFlash3:
    """Its package, made up: it takes (batch, length, heads, head)."""

    at = (2.0, 4.0, 2.0, 32.0, 16.0)

    @pytest.mark.parametrize("older", [False, True])
    def test_it_computes_the_same(self, monkeypatch: pytest.MonkeyPatch, older: bool) -> None:
        seen: list[tuple[torch.Tensor, ...]] = []

        def attend(*tensors: torch.Tensor, causal: bool) -> Any:
            query, key, value = (each.transpose(1, 2) for each in tensors)
            seen.append((query, key, value))
            out = _reference(query, key, value, causal=causal).transpose(1, 2)
            return (out, None) if older else out

        module = ModuleType("flash_attn_interface")
        module.flash_attn_func = attend  # type: ignore[attr-defined]  # what the package has
        monkeypatch.setitem(sys.modules, "flash_attn_interface", module)
        out = AttentionProbe(False, "fp32", (), backend="flash3").prepare(self.at, SteadyMachine())()
        assert isinstance(out, torch.Tensor)
        assert [each.shape for each in seen[-1]] == [(2, 4, 32, 16), (2, 2, 32, 16), (2, 2, 32, 16)]
        torch.testing.assert_close(out, _reference(*seen[-1], causal=True))

    def test_where_it_is_not_installed_that_is_said(self) -> None:
        with pytest.raises(UnavailableError, match=r"^flash_attn_interface \(FlashAttention-3\) is not installed$"):
            AttentionProbe(False, "bf16", (), backend="flash3").prepare(self.at, SteadyMachine())

    def test_it_is_measured_where_it_is_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu = torch.device("cuda", 0)
        assert named_backends(gpu) == ("flash", "efficient", "cudnn", "math")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
        assert named_backends(gpu) == ("flash", "efficient", "cudnn", "math", "flash3")
        assert named_backends(torch.device("cpu")) == ("math",)


def test_variants_are_named_by_what_is_not_the_default() -> None:
    assert AttentionProbe(False, "bf16", ()).variant == "forward"
    assert AttentionProbe(True, "bf16", ()).variant == "backward"
    assert AttentionProbe(False, "bf16", (), causal=False).variant == "forward-noncausal"
    assert AttentionProbe(True, "bf16", (), backend="math").variant == "backward-math"


@given(st.integers(2, 64), st.integers(2, 64))
def test_between_is_a_length_of_whole_blocks(one: int, other: int) -> None:
    """Of the first one's heads and head size: no model has 23 heads of 57."""
    middle = AttentionProbe(False, "fp32", ()).between(
        (1.0, 8.0, 2.0, 64.0 * one, 32.0), (4.0, 16.0, 16.0, 64.0 * other, 128.0)
    )
    if abs(one - other) < 2:
        assert middle is None
        return
    assert middle is not None
    *heads, length, head_size = middle
    assert (heads, head_size) == ([1.0, 8.0, 2.0], 32.0)
    assert length % 64 == 0
    assert min(one, other) * 64 < length < max(one, other) * 64
