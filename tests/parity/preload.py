"""What the forkserver loads once, so that a rank starts in a moment."""

import torch
import torch.distributed.checkpoint
import torch.distributed.fsdp
import torch.distributed.pipelining
import torch.distributed.tensor.parallel  # noqa: F401

import shardwright.executor.parallel.engine  # noqa: F401
