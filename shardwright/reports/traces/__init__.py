"""Traces for ui.perfetto.dev: the simulated step, with what is inside each pass and the messages between ranks, and a recorded one."""

from .joined import OffSpan, SpanKind, joined_trace, off_spans, off_table
from .simulated import CATEGORIES, STREAMS, trace_of

__all__ = [
    "CATEGORIES",
    "STREAMS",
    "OffSpan",
    "SpanKind",
    "joined_trace",
    "off_spans",
    "off_table",
    "trace_of",
]
