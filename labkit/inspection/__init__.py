"""What happens inside: read and edit activations, attention, the lens, the cache, and two models side by side."""

from .attention import AttentionMaps, attention, properties, repeated
from .capture import Activations, At, capture, edit
from .sites import Site, sites

__all__ = [
    "Activations",
    "At",
    "AttentionMaps",
    "Site",
    "attention",
    "capture",
    "edit",
    "properties",
    "repeated",
    "sites",
]
