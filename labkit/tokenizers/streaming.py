"""Text from tokens as they come: whole characters only, and nothing of a stop string."""

import codecs
from collections.abc import Sequence


class TextStream:
    """Feed the bytes of each token, get the text that is certain by now.

    Bytes of an unfinished character wait for the rest of it; text that may be the beginning of a stop string waits
    until it is known not to be.

    Attributes:
        text: everything given out so far.
        stopped: a stop string was met; it is not part of ``text``.
    """

    def __init__(self, stop: Sequence[str] = ()):
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = tuple(stop)
        self._held = ""
        self._out: list[str] = []
        self.stopped = False

    @property
    def text(self) -> str:
        return "".join(self._out)

    def feed(self, data: bytes, may_stop: bool = True) -> str:
        """Bytes of one token -> text to show now, possibly none. A stop that comes when it may not is text."""
        return self._give(self._decoder.decode(data), final=False, may_stop=may_stop)

    def finish(self) -> str:
        """What was still held back; bytes of an unfinished character become U+FFFD."""
        return self._give(self._decoder.decode(b"", final=True), final=True)

    def _give(self, text: str, final: bool, may_stop: bool = True) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        # The stop that is complete first counts, so that the cut does not depend on where tokens end.
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found and may_stop:
            self.stopped, self._held = True, ""
            text = text[: min(found)[1]]
        else:
            keep = 0 if final else self._may_be_stop(text)
            text, self._held = text[: len(text) - keep], text[len(text) - keep :]
        self._out.append(text)
        return text

    def _may_be_stop(self, text: str) -> int:
        """Length of the longest end of ``text`` that a stop string begins with."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for n in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-n:]) for stop in self._stop):
                return n
        return 0
