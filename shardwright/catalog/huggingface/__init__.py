"""Models from Hugging Face configurations, read as data: no transformers, no network, no code executed."""

from .families import model_from_config, supported_model_types
from .load import load_model, preset_names

__all__ = ["load_model", "model_from_config", "preset_names", "supported_model_types"]
