"""Selection: which token is looked at. Widgets of the same run share one, so a click in one is a click in all."""

import weakref
from collections.abc import Sequence

import traitlets

from ..trace import Trace


class Selection(traitlets.HasTraits):
    """A token of a text; widgets that are given the same Selection move together.

    Attributes:
        token: its place among all ids, the prompt's first; -1: none yet.
    """

    token = traitlets.Int(-1)

    @classmethod
    def of(cls, text: "Trace | str | Sequence[int]") -> "Selection":
        """The one that all widgets of this trace share; of anything else a new one."""
        if not isinstance(text, Trace):
            return cls()
        return _OF_TRACES.setdefault(text, cls())


_OF_TRACES: "weakref.WeakKeyDictionary[Trace, Selection]" = weakref.WeakKeyDictionary()
