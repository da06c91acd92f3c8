"""What autograd saves of a layer that transformers wrote and eager PyTorch runs, counted tensor by tensor.

Each operator keeps what its gradient reads (torch, tools/autograd/derivatives.yaml). A storage counts once, however many
operators and views keep it. Parameters don't count, nor what all layers share: rotary tables and the attention mask. Two things of a few bytes are left out: a kernel's random state (24 bytes), and
the indices by which DeepSeek-V3 chooses groups of experts (16 bytes a token and group, and 8 a chosen group).
"""

from .families import LayerCode, layer_code
from .layer import SavedTensors
from .norms import norm_bytes, norm_weight_bytes

__all__ = ["LayerCode", "SavedTensors", "layer_code", "norm_bytes", "norm_weight_bytes"]
