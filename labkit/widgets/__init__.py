"""Widgets: controls, one labkit call, one view. What they show can be had as plain data from their ``.result``."""

from .generation import GenerationPlayground
from .recording import PlaygroundResult

__all__ = ["GenerationPlayground", "PlaygroundResult"]
