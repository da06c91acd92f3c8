"""What the forkserver loads once, so that a rank starts in a moment."""

import torch  # noqa: F401
import torch.distributed.checkpoint  # noqa: F401
import torch.distributed.fsdp  # noqa: F401
import torch.distributed.pipelining  # noqa: F401
import torch.distributed.tensor.parallel  # noqa: F401

import shardwright.executor.engine  # noqa: F401
