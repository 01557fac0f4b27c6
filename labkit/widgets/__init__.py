"""Widgets: controls, one labkit call, one view. What they show can be had as plain data from their ``.result``."""

from . import facts
from .generation import GenerationPlayground
from .microscope import MicroscopeResult, SamplingMicroscope
from .recording import PlaygroundResult

__all__ = ["GenerationPlayground", "MicroscopeResult", "PlaygroundResult", "SamplingMicroscope", "facts"]
