"""Traces: a recorded run that answers every question about its draws without the model, and its file."""

from .answers import StepChange, WhatIfRun
from .reading import load_trace
from .recorder import named_ids, record, trace_of
from .run import RecordedStep, Replay, Trace

__all__ = [
    "RecordedStep",
    "Replay",
    "StepChange",
    "Trace",
    "WhatIfRun",
    "load_trace",
    "named_ids",
    "record",
    "trace_of",
]
