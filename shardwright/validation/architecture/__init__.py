"""The model that a row trained: its preset, or its sizes with what its family implies."""

from .model import model_of_row

__all__ = ["model_of_row"]
