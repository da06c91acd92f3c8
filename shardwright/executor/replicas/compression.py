"""Numbers in 1, 4, 8 or 16 bits, as replicas send them."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from shardwright.specs import SENT_BLOCK

_POWERS = tuple(2**place for place in range(8))
_LEVELS = 7
"""Of 4 bits one is the sign, and three say how often the block's largest size is halved; the eighth code is zero (the format E3M0 of
Streaming DiLoCo, arXiv 2501.18512)."""


def encoded(values: Tensor, bits: int) -> Tensor:
    """Return `values`, fp32 of shape (parts, n) with n a multiple of 8, as bytes of shape (parts, m), m as `specs.sent_bytes` says.

    Every block of `SENT_BLOCK` numbers of a part has a scale in fp32 s, which follows the codes:

    - 1 bit: the sign, of size s = mean |x|, which has the least squared error (Karimireddy et al. 2019, arXiv 1901.09847, section 2).
    - 4 bits: the sign and k = round(log2(s / |x|)) from 0 to 6 with s = max |x|, or zero.
    - 8 bits: round(x / s) with s = max |x| / 127.
    - 16 bits: bfloat16, without a scale.
    """
    if bits == 16:
        return values.to(torch.bfloat16).view(torch.uint8)
    blocks, sizes = _blocks(values)
    largest = blocks.abs().amax(dim=-1, keepdim=True)
    if bits == 1:
        scale = blocks.abs().sum(dim=-1, keepdim=True) / sizes[:, None]
        codes = _packed((blocks >= 0).to(torch.uint8), values.shape[1])
    elif bits == 4:
        scale = largest
        halved = torch.log2(scale / blocks.abs()).round().nan_to_num(nan=_LEVELS).clamp(max=_LEVELS).to(torch.uint8)
        signed = (halved + 8 * (blocks < 0)).to(torch.uint8).flatten(1)[:, : values.shape[1]]
        codes = signed[:, ::2] * 16 + signed[:, 1::2]
    else:
        scale = largest / 127
        whole = (blocks / torch.where(scale > 0, scale, 1.0)).round().to(torch.int8)
        codes = whole.flatten(1)[:, : values.shape[1]].contiguous().view(torch.uint8)
    return torch.cat([codes, scale.flatten(1).contiguous().view(torch.uint8)], dim=1)


def decoded(sent: Tensor, count: int, bits: int) -> Tensor:
    """Return the `count` numbers of each part of what `encoded` returned, fp32 of shape (parts, count)."""
    if bits == 16:
        return sent.view(torch.bfloat16).float()
    held = count * bits // 8
    codes, scale = (
        sent[:, :held].contiguous(),
        sent[:, held:].clone(memory_format=torch.contiguous_format).view(torch.float32),
    )
    scale = scale.repeat_interleave(SENT_BLOCK, dim=1)[:, :count]
    if bits == 1:
        places = torch.tensor(_POWERS, dtype=torch.uint8, device=sent.device)
        signs = (codes[..., None] & places) > 0
        return torch.where(signs.flatten(1), scale, -scale)
    if bits == 4:
        signed = torch.stack([codes // 16, codes % 16], dim=-1).flatten(1)
        halved, negative = signed % 8, signed >= 8
        size = torch.where(halved == _LEVELS, 0.0, scale * torch.exp2(-halved.float()))
        return torch.where(negative, -size, size)
    return codes.view(torch.int8).float() * scale


def _blocks(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return (parts, blocks, SENT_BLOCK) numbers, filled up with zeros, and how many of each block are given, (blocks,)."""
    parts, count = values.shape
    blocks = -(-count // SENT_BLOCK)
    sizes = torch.full((blocks,), float(SENT_BLOCK), device=values.device)
    sizes[-1] = count - (blocks - 1) * SENT_BLOCK
    return pad(values, (0, blocks * SENT_BLOCK - count)).view(parts, blocks, SENT_BLOCK), sizes


def _packed(signs: Tensor, count: int) -> Tensor:
    """Return (parts, count / 8) bytes of (parts, blocks, SENT_BLOCK) signs."""
    eights = signs.flatten(1)[:, :count].view(len(signs), -1, 8)
    places = torch.tensor(_POWERS, dtype=torch.uint8, device=signs.device)
    return (eights * places).sum(dim=-1).to(torch.uint8)
