"""What happens inside: read and edit activations, attention, the lens, the cache, and two models side by side."""

from .capture import Activations, At, capture, edit
from .sites import Site, sites

__all__ = ["Activations", "At", "Site", "capture", "edit", "sites"]
