"""The way out: the weights or the adapters of a checkpoint of any plan, in the formats of Hugging Face and PEFT."""

from .adapters import export_adapters
from .export import ExportOptions, export_weights

__all__ = ["ExportOptions", "export_adapters", "export_weights"]
