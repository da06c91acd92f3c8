"""Traces for ui.perfetto.dev: the simulated step, with what is inside each pass and the messages between ranks."""

from .simulated import CATEGORIES, STREAMS, trace_of

__all__ = ["CATEGORIES", "STREAMS", "trace_of"]
