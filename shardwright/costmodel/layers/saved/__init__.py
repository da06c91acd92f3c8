"""What autograd saves of a layer that transformers wrote and eager PyTorch runs, counted tensor by tensor.

Each operator keeps what its gradient reads (torch, tools/autograd/derivatives.yaml). A storage counts once, however many
operators and views keep it. Parameters don't count, nor what all layers share: rotary tables and the attention mask.
"""

from .families import LayerCode, Routing, layer_code
from .layer import SavedTensors
from .norms import norm_bytes

__all__ = ["LayerCode", "Routing", "SavedTensors", "layer_code", "norm_bytes"]
