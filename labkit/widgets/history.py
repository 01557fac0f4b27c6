"""What was written in a playground: every run and branch, the way back, and how much of each is kept in memory."""

import dataclasses
from collections.abc import Callable

from torch import Tensor

from ..generation import BranchTree, Generation
from ..views.base import visible
from .facts import pieces
from .recording import LOGITS_BYTES, Recording, differences

CACHES = 4  # so many of the recordings looked at last keep their cache; from others one goes on after a prefill


class History:
    """Recordings in a tree for each prompt. Nothing is ever lost: undo and redo only move what is current.

    A recording that was written because a slider moved takes the place of the one before it, if that was written for
    the same reason and nothing leaves it; otherwise a storm of moves would be a storm of branches.
    """

    def __init__(self) -> None:
        self._trees: list[BranchTree] = []
        self._recordings: list[list[Recording]] = []
        self._place = -1  # of the tree that is looked at
        self._provisional: Recording | None = None
        self._looked_at: list[Recording] = []  # the newest last

    @property
    def tree(self) -> BranchTree | None:
        """Of the prompt that is looked at."""
        return self._trees[self._place] if self._trees else None

    @property
    def current(self) -> Recording | None:
        return self._recordings[self._place][self._trees[self._place].current] if self._trees else None

    def add(self, recording: Recording, provisional: bool = False) -> None:
        """A run that has ended becomes the current one.

        Args:
            provisional: nobody asked for it in so many words; the next such one may take its place.
        """
        before = self.current
        if before is None or not same_prompt(before, recording):
            self._place = len(self._trees)
            self._trees.append(BranchTree(plain(recording), "start"))
            self._recordings.append([recording])
        else:
            self._grow(before, recording)
        self._provisional = recording if provisional else None
        self._look_at(recording)

    def _grow(self, before: Recording, recording: Recording) -> None:
        tree, recordings = self._trees[self._place], self._recordings[self._place]
        if self._replaces(before, recording):
            here, node = tree.current, tree.nodes[tree.current]
            if node.parent is not None:
                left = recordings[node.parent]
                node = dataclasses.replace(node, label=words(left, recording), at=shared(left, recording))
            recordings[here], tree.nodes[here] = recording, dataclasses.replace(node, generation=plain(recording))
            self._looked_at.remove(before)
            return
        left = recording.origin.recording if recording.origin is not None else before
        left = left if left in recordings else before
        tree.add(plain(recording), shared(left, recording), words(left, recording), recordings.index(left))
        recordings.append(recording)

    def _replaces(self, before: Recording, recording: Recording) -> bool:
        tree = self._trees[self._place]
        if any(node.parent == tree.current for node in tree.nodes):
            return False
        again = before.settings == recording.settings and before.ids == recording.ids
        return again or before is self._provisional

    def go(self, node: int) -> None:
        """Make a node of the tree the current one.

        Raises:
            ConfigError: there is no such node.
        """
        if (tree := self.tree) is not None:
            tree.go(node)
            self._moved()

    def undo(self) -> bool:
        """Back to what was current before; False if there is nothing."""
        return self._move(-1, BranchTree.undo)

    def redo(self) -> bool:
        """What undo left becomes current again; False if there is nothing."""
        return self._move(1, BranchTree.redo)

    @property
    def can_undo(self) -> bool:
        return bool(self._trees) and (self._place > 0 or self._trees[self._place].can_undo)

    @property
    def can_redo(self) -> bool:
        return bool(self._trees) and (self._place + 1 < len(self._trees) or self._trees[self._place].can_redo)

    def _move(self, step: int, within: Callable[[BranchTree], bool]) -> bool:
        if not self._trees:
            return False
        if not within(self._trees[self._place]):
            if not 0 <= self._place + step < len(self._trees):
                return False
            self._place += step
        self._moved()
        return True

    def _moved(self) -> None:
        self._provisional = None
        if self.current is not None:
            self._look_at(self.current)

    # memory

    def _look_at(self, recording: Recording) -> None:
        """The caches and logits of what was looked at last are kept, as far as there is room for them."""
        self._looked_at = [*(one for one in self._looked_at if one is not recording), recording]
        for old in self._looked_at[:-CACHES]:
            old.release()
        kept: set[int] = set()
        for one in reversed(self._looked_at):
            for i, step in enumerate(one.steps):
                if isinstance(step.logits, Tensor) and id(step.logits) not in kept:
                    if len(kept) * 4 * one.lm.vocab_size >= LOGITS_BYTES and one is not recording:
                        one.compact(i)
                    else:
                        kept.add(id(step.logits))


def plain(recording: Recording) -> Generation:
    """The generation without its cache."""
    return dataclasses.replace(recording.generation, _cache=None)


def same_prompt(one: Recording, other: Recording) -> bool:
    return one.lm is other.lm and one.prompt_ids == other.prompt_ids


def shared(one: Recording, other: Recording) -> int:
    """How many new ids two recordings have in common from the first on."""
    pairs = enumerate(zip(one.ids, other.ids, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one.steps), len(other.steps)))


def words(before: Recording, recording: Recording) -> str:
    """What makes a recording another one than that before it."""
    origin = recording.origin
    changes = differences(before.settings, recording.settings)
    if origin is not None and origin.forced:
        was, now = (
            visible("".join(pieces(recording.lm, ids)))
            for ids in (origin.recording.ids[origin.at : origin.at + 1], origin.forced)
        )
        return f"“{now}” instead of “{was}”" if was else f"“{now}” behind it"
    if origin is not None:
        return "continued"
    return ", ".join(f"{name} {value}" for name, value in changes.items()) or "again"
