"""Every long inspection tells how far it is, gives the same told or not, and when stopped leaves nothing behind."""

import contextlib
import dataclasses
import gc
import io
import itertools
import threading
import time
import weakref

import pytest
import tiny
import torch
from test_cli import run

from labkit import inspection
from labkit.errors import ConfigError
from labkit.inspection import Stopped
from labkit.inspection.cache_history import cache_history
from labkit.inspection.progress import steps
from labkit.sampling import Sampler, StepContext

TEXT = "to be or not to be, "
IDS = tiny.random_ids(6)
VECTOR = inspection.SteeringVector("blocks.0.resid_post", torch.ones(16), 1.0)


def up_to(n):
    return [(done, n) for done in range(1, n + 1)]


# name -> (call, what it tells)
LONG = {
    "ablate": (lambda lm, p: inspection.ablate(lm, IDS, "heads", progress=p), up_to(8)),
    "patch": (lambda lm, p: inspection.patch(lm, [1, 2, 3], [1, 4, 3], 5, progress=p), up_to(2)),
    "audit_cache": (lambda lm, p: inspection.audit_cache(lm, IDS, max_new_tokens=11, every=4, progress=p), up_to(12)),
    "cache_report": (lambda lm, p: inspection.cache_report(lm, IDS, progress=p), up_to(6)),
    "cache_history": (lambda lm, p: cache_history(lm, IDS, progress=p), up_to(6)),
    "evaluate_text": (lambda lm, p: inspection.evaluate_text(lm, TEXT * 5, stride=5, progress=p), up_to(16)),
    "evaluate_answers": (
        lambda lm, p: inspection.evaluate_answers(lm, [("ab", "c"), ("to be", "ee"), ("e", "b")], progress=p),
        up_to(3),
    ),
    "trajectory": (
        lambda lm, p: inspection.trajectory([lm, lm], text=TEXT * 2, questions=[("ab", "c")], progress=p),
        2 * (up_to(4) + up_to(1)),
    ),
    "compare": (
        lambda lm, p: inspection.compare(
            lm, lm, prompt="ab", max_new_tokens=9, seed=1, changes_b={"seed": 2}, progress=p
        ),
        [*up_to(9), (10, 10)],  # a text within a window is read at once
    ),
    "fit_lens": (lambda lm, p: inspection.fit_lens(lm, [TEXT, TEXT[::-1]], progress=p), up_to(2)),
    "steering_effect": (
        lambda lm, p: inspection.steering_effect(lm, "ab", VECTOR, [1.0, 2.0], max_new_tokens=4, progress=p),
        up_to(3),
    ),
}
every_long_one = pytest.mark.parametrize(("call", "told"), LONG.values(), ids=LONG)


@pytest.fixture(scope="module")
def lm():
    return tiny.tiny("labcore", "learned")


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if dataclasses.is_dataclass(a):
        return all(equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a) if f.compare)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def hooks(lm):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())


@every_long_one
def test_it_counts_to_the_total_and_gives_the_same_told_or_not(call, told, lm):
    calls = []
    assert equal(call(lm, lambda *at: calls.append(at)), call(lm, False))
    assert calls == told


@every_long_one
def test_what_is_raised_ends_it_and_leaves_nothing_behind(call, told, lm, monkeypatch):
    expected, before = call(lm, False), (hooks(lm), threading.active_count())
    made, new_cache = [], lm.model.new_cache

    def watched(*arguments):
        cache = new_cache(*arguments)
        made.append(weakref.ref(cache))
        return cache

    def stop(done, total):
        if done >= total / 2:
            raise KeyError("enough")

    monkeypatch.setattr(lm.model, "new_cache", watched)
    with pytest.raises(KeyError, match="enough"):
        call(lm, stop)
    gc.collect()
    assert (hooks(lm), threading.active_count()) == before and not any(cache() for cache in made)
    monkeypatch.undo()
    assert equal(call(lm, False), expected)


def test_stopped_leaves_ablate_with_the_parts_that_were_done(lm):
    def stop(done, total):
        if done == 3:
            raise Stopped

    whole, part = inspection.ablate(lm, IDS, "heads", progress=False), inspection.ablate(lm, IDS, progress=stop)
    assert part.rows() == whole.rows()[:3] and part.parts == whole.parts[:3] and not hooks(lm)
    with pytest.raises(Stopped):
        inspection.audit_cache(lm, IDS, max_new_tokens=5, progress=stop)


def test_a_run_that_ends_early_ends_the_count_early(lm):
    calls = []
    ended = inspection.compare(lm, lm, prompt="ab", greedy=True, max_new_tokens=9, stop=lm.tokenizer.decode(
        inspection.compare(lm, lm, prompt="ab", greedy=True, max_new_tokens=9).run.a.ids[4:5]
    ), progress=lambda *at: calls.append(at))  # fmt: skip
    n = len(ended.run.a.ids)
    assert n < 9 and calls[n - 1] == (n, 9) and calls[n:] == [(n + 1, n + 1)]


def test_ablation_at_a_step_of_a_run_draws_as_the_run_did(lm):
    sampler = Sampler.from_settings(temperature=1.0, seed=3)
    drawn = {}
    for step in range(12):
        found = inspection.ablate(
            lm, IDS, "heads", sampler=sampler, context=StepContext([IDS], [[]], step), progress=False
        )
        drawn[step] = int(found.effects[0].drawn_before[0])
        assert drawn[step] == sampler.trace(lm.logits(IDS)[-1], IDS, step=step).chosen
    assert len(set(drawn.values())) > 1
    with pytest.raises(ConfigError, match="the context has 1 rows for 2 prompts"):
        inspection.ablate(lm, [IDS, IDS], context=StepContext([IDS], [[]]))


class Terminal(io.StringIO):
    def __init__(self, isatty):
        super().__init__()
        self.isatty = lambda: isatty


@pytest.mark.parametrize(
    ("progress", "isatty", "shown"),
    [(None, True, True), (None, False, False), (True, True, True), (True, False, True), (False, True, False)],
)
def test_a_bar_appears_after_a_second_where_it_is_wanted(progress, isatty, shown, monkeypatch):
    now = [time.time()]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    stderr = Terminal(isatty)
    with contextlib.redirect_stderr(stderr):
        for i in steps(range(40), "counting", progress):
            now[0] += 0.1
            if i < 9:
                assert "counting" not in stderr.getvalue()
    assert ("counting:" in stderr.getvalue() and "/40" in stderr.getvalue()) == shown


@pytest.mark.parametrize("isatty", [True, False])
def test_the_commands_show_a_bar_on_a_terminal_and_nowhere_else(isatty, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tqdm.std.time", itertools.count(step=2).__next__)
    text, sums = tmp_path / "text.txt", tmp_path / "sums.tsv"
    text.write_text("12+34=46\n" * 20)
    sums.write_text("12+34=\t46\n5+5=\t10\n")
    early, late = "arithmetic/step_000200", "arithmetic/step_002200"
    for shown, *arguments in (
        ("reading:", "eval", early, str(text)),
        ("answering:", "eval", early, str(sums)),
        ("writing:", "compare", early, late, "--prompt", "12+34=", "--max-new-tokens", "4"),
        ("reading:", "compare", early, late, early, "--text", str(text)),
    ):
        stderr = Terminal(isatty)
        monkeypatch.setattr("sys.stderr", stderr)
        status, out, _ = run(capsys, *arguments)
        assert status == 0 and shown not in out
        assert (shown in stderr.getvalue()) is isatty
