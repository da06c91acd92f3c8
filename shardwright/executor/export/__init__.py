"""The way out: the weights of a checkpoint of any plan as a folder in Hugging Face's layout."""

from .export import ExportOptions, export_weights

__all__ = ["ExportOptions", "export_weights"]
