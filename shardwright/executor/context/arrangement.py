"""What attention of a model reaches over, by the plan: the sequence over ranks, its chunks in turn, or documents within it."""

import torch
from torch import Tensor

from shardwright.costmodel import PlanFile
from shardwright.executor.model import Skeleton, attend_within_documents

from .attention import see_whole_sequence
from .in_turn import attend_in_turn


def arrange_attention(plan_file: PlanFile, skeleton: Skeleton, device: torch.device) -> Tensor | None:
    """Let attention reach over ranks or stay within documents; return the positions of this rank's tokens, None: all."""
    plan, training = plan_file.plan, plan_file.training
    if plan.mesh.cp > 1:
        return see_whole_sequence(skeleton.model, plan, seq_len=training.seq_len, device_type=device.type)
    if training.sequence_chunks > 1:
        attend_in_turn(skeleton.model)
    elif training.documents is not None and skeleton.config._attn_implementation == "sdpa":
        attend_within_documents(skeleton.model)
    return None
