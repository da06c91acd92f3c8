"""The frameworks' files: one table of rows each, which writes and reads every choice under the framework's own key."""

from .accelerate import ACCELERATE
from .deepspeed import DEEPSPEED
from .megatron import MEGATRON
from .nemo import NEMO
from .torchtitan import TORCHTITAN

__all__ = ["ACCELERATE", "DEEPSPEED", "MEGATRON", "NEMO", "TORCHTITAN"]
