"""Scaled dot-product attention, forward and backward, as transformers' models call it."""

import importlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from shardwright.profiler.sizes import size_between
from shardwright.profiler.timing import (
    BYTES,
    Machine,
    Sizes,
    UnavailableError,
    Work,
    available,
    random_tensor,
    rotated,
    rotated_bytes,
    torch_dtype,
    tried,
)
from shardwright.specs import Format

Backend = Literal["math", "flash", "efficient", "cudnn", "flash3"]
_TORCHS: dict[Backend, SDPBackend] = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
FLASH_3_MODULE = "flash_attn_interface"
"""Package of FlashAttention-3."""
_WIDEST_GROUPED_HEAD = 256  # above this, transformers repeats keys and values (use_gqa_in_sdpa)
# fp32 copies of the scores that the math backend keeps for the backward pass, and copies in its working memory
_KEPT_SCORES, _WORKING_SCORES = 2, 3
_BLOCK = 64  # keys that a kernel processes at a time


@dataclass(frozen=True)
class AttentionProbe:
    """Axes batch, heads, kv_heads, length, head_size.

    Queries, keys and values are (batch, heads, length, head) views of (batch, length, heads, head), as a projection's
    output is. `backend` None: torch's own choice; "flash3": FlashAttention-3, where its package is installed.
    `device_type`: the device for which torch's choice is asked. Memory depends on it, because without a fused kernel the
    scores are kept. `latent`: heads of values are two thirds of `head_size`, as in latent attention (DeepSeek-V2,
    arXiv 2405.04434: 192 and 128).
    """

    backward: bool
    format: Format
    wanted: tuple[Sizes, ...]
    causal: bool = True
    backend: Backend | None = None
    latent: bool = False
    device_type: str = "cpu"
    operation: str = "attention"
    axes: tuple[str, ...] = ("batch", "heads", "kv_heads", "length", "head_size")

    @property
    def variant(self) -> str:
        way = "backward" if self.backward else "forward"
        parts = (way, self.backend, None if self.causal else "noncausal", "mla" if self.latent else None)
        return "-".join(part for part in parts if part)

    def first_sizes(self) -> Sequence[Sizes]:
        return self.wanted

    def between(self, one: Sizes, other: Sizes) -> Sizes | None:
        """Return another length, in whole blocks, with the heads and the head size of `one`.

        Models have few head sizes, and kernels are written for those.
        """
        *heads, length, head_size = one
        middle = size_between((length,), (other[-2],), (_BLOCK,))
        return None if middle is None else (*heads, *middle, head_size)

    def needed_bytes(self, at: Sizes) -> float:
        batch, heads, _, length, head_size = at
        # separate gradients of grouped heads, sums in fp32
        sums_bytes = 12.0 * batch * heads * length * head_size * self.backward
        return rotated_bytes(
            set_bytes=self._set_bytes(at),
            result_bytes=self._result_bytes(at),
            extra_bytes=sums_bytes + _WORKING_SCORES * self._score_bytes(at),
        )

    def prepare(self, at: Sizes, machine: Machine) -> Work:
        if self.format == "fp8":
            raise UnavailableError("torch's attention does not compute in fp8")
        dtype = torch_dtype(self.format, machine.device)
        batch, heads, kv_heads, length, head_size = (round(size) for size in at)
        value_size = round(self._value_size(at))
        sizes = (head_size, head_size, value_size, value_size)

        def make() -> Work:
            query, key, value, gradient = (
                random_tensor((batch, length, count, size), dtype, machine.device).transpose(1, 2)
                for count, size in zip((heads, kv_heads, kv_heads, heads), sizes, strict=True)
            )
            leaves = tuple(each.requires_grad_() for each in (query, key, value))
            if not self.backward:
                return lambda: self._attend(*leaves)
            out = self._attend(*leaves)
            return lambda: torch.autograd.grad(out, leaves, gradient, retain_graph=True)

        set_bytes, result_bytes = self._set_bytes(at), self._result_bytes(at)
        return tried(
            lambda: rotated(make, set_bytes=set_bytes, result_bytes=result_bytes),
            f"{self.variant} attention in {self.format}",
        )

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.backend == "flash3":
            return _flash_3(query, key, value, causal=self.causal)
        groups = query.shape[1] // key.shape[1]
        grouped = groups > 1 and _takes_grouped(query.shape[-1])
        if groups > 1 and not grouped:
            key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
        with nullcontext() if self.backend is None else sdpa_kernel(_TORCHS[self.backend]):
            return functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal, enable_gqa=grouped)

    def _value_size(self, at: Sizes) -> float:
        return at[-1] * 2 / 3 if self.latent else at[-1]

    def _operand_bytes(self, at: Sizes) -> float:
        batch, heads, kv_heads, length, head_size = at
        width = head_size * (heads + kv_heads) + self._value_size(at) * kv_heads
        return BYTES[self.format] * batch * length * width

    def _out_bytes(self, at: Sizes) -> float:
        batch, heads, _, length, _ = at
        return BYTES[self.format] * batch * length * self._value_size(at) * heads

    def _score_bytes(self, at: Sizes) -> float:
        """Bytes of the scores in fp32, where they are written to memory at all."""
        batch, heads, _, length, _ = at
        return 0.0 if self._is_fused(at) else 4.0 * batch * heads * length * length

    def _kept_bytes(self, at: Sizes) -> float:
        """Bytes that a forward pass keeps: its output, a log-sum-exp for each query, repeated keys and values.

        Unfused attention also keeps the scores and scaled copies of queries and keys, in fp32.
        """
        batch, heads, kv_heads, length, head_size = at
        repeated = 2.0 if heads > kv_heads and not _takes_grouped(head_size) else 0.0
        scaled_bytes = 0.0 if self._is_fused(at) else 12.0 * batch * heads * length * head_size
        kept_bytes = (1 + repeated) * self._out_bytes(at) + 4.0 * batch * heads * length
        return kept_bytes + scaled_bytes + _KEPT_SCORES * self._score_bytes(at)

    def _result_bytes(self, at: Sizes) -> float:
        return self._operand_bytes(at) if self.backward else self._kept_bytes(at)

    def _set_bytes(self, at: Sizes) -> float:
        """Bytes of queries, keys, values and the output's gradient; for a backward
        pass also those that the forward pass kept."""
        kept_bytes = self._kept_bytes(at) if self.backward else 0.0
        return self._operand_bytes(at) + self._out_bytes(at) + kept_bytes

    def _is_fused(self, at: Sizes) -> bool:
        """Whether a fused kernel computes it. Such a kernel never keeps the scores."""
        if self.backend is not None:
            return self.backend != "math"
        choose = getattr(torch, "_fused_sdp_choice", None)
        if choose is None:
            return False
        heads, kv_heads, head_size = (round(at[axis]) for axis in (1, 2, 4))
        try:
            device = torch.device(self.device_type)
            dtype = torch_dtype(self.format, device)
            kept = kv_heads if _takes_grouped(head_size) else heads
            query, key, value = (
                torch.empty((1, count, 16, size), dtype=dtype, device=device, requires_grad=True)
                for count, size in ((heads, head_size), (kept, head_size), (kept, round(self._value_size(at))))
            )
            grouped = query.shape[1] != key.shape[1]
            choice = choose(query, key, value, None, 0.0, self.causal, enable_gqa=grouped)
            return bool(choice != SDPBackend.MATH.value)
        except (RuntimeError, UnavailableError):
            return False


def _flash_3(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    """Return the result of FlashAttention-3, which takes (batch, length, heads, head). Older versions also return the
    log-sum-exp.

    Raises:
        UnavailableError: it is not installed.
    """
    try:
        attend = available("flash_attn_func", importlib.import_module(FLASH_3_MODULE))
    except ImportError:
        raise UnavailableError(f"{FLASH_3_MODULE} (FlashAttention-3) is not installed") from None
    out = attend(*(each.transpose(1, 2) for each in (query, key, value)), causal=causal)
    return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)


def _takes_grouped(head_size: float) -> bool:
    """Whether transformers gives grouped keys and values to the kernel unchanged; else it repeats them."""
    return head_size <= _WIDEST_GROUPED_HEAD
