"""branch: another token at some place, on from there by ids; and the tree of what was tried."""

import copy
import json
import pickle

import pytest
import tiny

import labkit
from labkit.errors import ConfigError, TokenizerError
from labkit.generation import visible_from
from labkit.sampling import Sampler

CONTEXT = tiny.CONTEXT
WARM = {"seed": 7, "temperature": 1.2, "max_new_tokens": 30}
every_model = pytest.mark.parametrize(("family", "variant"), tiny.CASES, ids=["-".join(case) for case in tiny.CASES])


@pytest.fixture
def lm() -> labkit.LanguageModel:
    return tiny.tiny("labcore", "learned")


@pytest.fixture
def whole(lm) -> labkit.Generation:
    return labkit.generate(lm, "to be", **WARM)


def fresh(case=("labcore", "learned"), **facts) -> labkit.LanguageModel:
    """A model of its own, which a test may hang hooks on."""
    return tiny.language_model(case[0], tiny.TINY[case[0]][case[1]], tiny.characters(), **facts)


def other(token_id: int) -> int:
    return (token_id + 1) % tiny.V


def same(one: labkit.Generation, two: labkit.Generation) -> bool:
    """The same ids for the same reasons: the model saw the same, too."""
    return one == two and one.raw_logprobs == pytest.approx(two.raw_logprobs, abs=1e-4)


def read_tokens(lm) -> list[int]:
    """Where the tokens of every later forward are noted."""
    sizes: list[int] = []
    lm.model.embed.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape[1]))
    return sizes


# --- the same draw


@every_model
@pytest.mark.parametrize("keep_cache", [True, False])
def test_the_token_that_was_there_anyway_gives_the_same_run_again(family, variant, keep_cache):
    lm = tiny.tiny(family, variant)
    whole = labkit.generate(lm, [3, 1, 4], keep_cache=keep_cache, **WARM)
    for at in (0, 1, 11, 25, 29):
        assert labkit.branch(lm, whole, at, whole.ids[at]).ids == whole.ids


@every_model
def test_another_token_gives_what_prefilling_it_gives_and_a_kept_cache_changes_nothing(family, variant):
    lm = tiny.tiny(family, variant)
    kept, plain = (labkit.generate(lm, [3, 1, 4], keep_cache=keep, **WARM) for keep in (True, False))
    for at in (0, 6, 20, 28, 30):
        chosen = other(plain.ids[min(at, 29)])
        branched = labkit.branch(lm, plain, at, chosen)
        assert same(branched, labkit.branch(lm, kept, at, chosen))
        assert branched.ids[: at + 1] == [*plain.ids[:at], chosen] and branched.kept == at
        # the steps after it: the draw of the whole run, on what is there now
        n = len(branched.ids) - 1
        if n > at:
            seen = lm.logits((branched.prompt_ids + branched.ids[:n])[visible_from(3 + n, CONTEXT, "crop") :])[-1]
            sampler = Sampler.from_settings(**branched.settings.sampling())
            assert sampler.trace(seen, branched.prompt_ids, branched.ids[:n], step=n).chosen == branched.ids[n]


@pytest.mark.parametrize(
    "changes",
    [{"dialect": "labcore"}, {"dialect": "llama.cpp", "overflow": "crop"}, {"mirostat_tau": 3.0}, {"dialect": "swamla"},
     {"repetition_penalty": 1.4, "dry_multiplier": 1.0}, {"xtc_probability": 0.5, "xtc_threshold": 0.05},
     {"overflow": "labcore"}],
    ids=str,
)  # fmt: skip
def test_penalties_memories_and_random_streams_go_on_where_they_were(lm, changes):
    whole = labkit.generate(lm, "to be", **{**WARM, **changes})
    for at in (0, 4, 27):
        assert labkit.branch(lm, whole, at, whole.ids[at]).ids == whole.ids


def test_the_i_th_continuation_goes_on_with_its_own_noise(lm):
    whole = labkit.generate_batch(lm, ["to be"], n=3, **WARM)[0][2]
    again = labkit.branch(lm, whole, 5, whole.ids[5])
    assert again.ids == whole.ids and again.stream == 2


def test_a_branch_of_a_branch_works_like_a_branch(lm, whole):
    first = labkit.branch(lm, whole, 5, other(whole.ids[5]))
    second = labkit.branch(lm, first, 9, other(first.ids[9]))
    assert second.ids[:10] == [*first.ids[:9], other(first.ids[9])] and second.ids[5] == first.ids[5]
    assert labkit.branch(lm, second, 9, first.ids[9]).ids == first.ids


def test_changes_hold_from_the_branch_on_and_are_recorded(lm, whole):
    branched = labkit.branch(lm, whole, 10, whole.ids[10], seed=99, temperature=0)
    assert branched.ids[:11] == whole.ids[:11] and branched.ids != whole.ids
    assert branched.settings == whole.settings.replace(seed=99, temperature=0)


def test_new_tokens_are_counted_from_the_prompt_unless_that_is_changed(lm, whole):
    assert len(labkit.branch(lm, whole, 10, 3).ids) == 30
    assert len(labkit.branch(lm, whole, 10, 3, max_new_tokens=15).ids) == 15
    longer = labkit.branch(lm, whole, 29, whole.ids[29], max_new_tokens=50)
    assert longer.ids == labkit.generate(lm, "to be", **{**WARM, "max_new_tokens": 50}).ids


def test_the_chosen_token_is_taken_whatever_stages_and_limits_say(lm, whole):
    removed = labkit.branch(lm, whole, 4, 3, forbidden_ids=(3,), max_new_tokens=2)
    assert removed.ids == [*whole.ids[:4], 3] and removed.finish_reason == "length"
    assert removed.logprobs[4] == float("-inf") and -20 < removed.raw_logprobs[4] < 0
    assert labkit.branch(lm, whole, 30, 3).ids == [*whole.ids, 3]


def test_a_chosen_token_may_end_the_run_and_one_before_it_never_does():
    lm = fresh(stop_ids=(5,))
    whole = labkit.generate(fresh(), "to be", **WARM)
    ended = labkit.branch(lm, whole, 3, 5)
    assert (ended.ids, ended.finish_reason, ended.text) == (
        [*whole.ids[:3], 5], "eos", lm.tokenizer.decode(whole.ids[:3]),
    )  # fmt: skip
    stop = lm.tokenizer.decode(whole.ids[:1])
    later = labkit.branch(lm, whole, 3, whole.ids[3], stop=stop, max_new_tokens=5)
    assert later.text.startswith(lm.tokenizer.decode(whole.ids[:3]))


def test_a_branch_has_the_numbers_of_all_its_tokens(lm, whole):
    branched = labkit.branch(lm, whole, 10, other(whole.ids[10]))
    expected = labkit.score(lm, branched.prompt_ids + branched.ids).logprobs[len(branched.prompt_ids) :]
    assert branched.raw_logprobs == pytest.approx(expected, abs=1e-4)
    assert len(branched.logprobs) == len(branched.ids) and branched.logprobs[:10] == whole.logprobs[:10]


# --- the cache


def test_a_kept_cache_spares_the_prefill_and_stays_what_it_was():
    lm = fresh()
    whole = labkit.generate(lm, "to be", keep_cache=True, seed=7, max_new_tokens=15)
    sizes = read_tokens(lm)
    first = labkit.branch(lm, whole, 8, 3)
    assert sizes == [1] * 7
    labkit.branch(lm, whole, 2, other(whole.ids[2]))
    labkit.branch(lm, first, 10, 5)  # a branch keeps one too
    assert set(sizes) == {1}
    assert same(labkit.branch(lm, whole, 8, 3), first)


def test_where_a_cache_cannot_be_wound_back_the_ids_are_prefilled():
    lm = fresh(("nanochat", "newest"))
    whole = labkit.generate(lm, "to be", keep_cache=True, seed=7, max_new_tokens=15)
    sizes = read_tokens(lm)
    labkit.branch(lm, whole, 8, 3)
    assert sizes[0] == 13 and set(sizes[1:]) == {1}
    del sizes[:]
    labkit.branch(lm, whole, 15, 3, max_new_tokens=18)  # nothing to wind back: it goes on
    assert set(sizes) == {1}


def test_the_cache_of_another_model_is_not_used(lm):
    whole = labkit.generate(lm, "to be", keep_cache=True, seed=7, max_new_tokens=10)
    stranger = tiny.language_model("labcore", tiny.TINY["labcore"]["learned"], tiny.characters(), seed=5)
    bare = labkit.generate(lm, "to be", seed=7, max_new_tokens=10)
    assert same(labkit.branch(stranger, whole, 4, 3), labkit.branch(stranger, bare, 4, 3))


def test_a_kept_cache_is_never_compared_shown_or_saved(lm, whole):
    kept = labkit.generate(lm, "to be", keep_cache=True, **WARM)
    assert kept == whole and repr(kept) == repr(whole)
    assert len(pickle.dumps(kept)) == len(pickle.dumps(whole))
    assert labkit.branch(lm, copy.copy(kept), 4, 3) == labkit.branch(lm, kept, 4, 3)


# --- what cannot be done


@pytest.mark.parametrize(
    ("at", "token_id", "error", "words"),
    [(-1, 3, ConfigError, "at is -1; it must be from 0 to 30"),
     (31, 3, ConfigError, "at is 31; it must be from 0 to 30"),
     (1.5, 3, ConfigError, r"at is 1\.5"), (3, tiny.V, TokenizerError, f"id {tiny.V} is outside the vocabulary"),
     (3, -1, TokenizerError, "id -1 is outside"), (3, "a", TokenizerError, "id 'a' is outside")],
)  # fmt: skip
def test_a_place_or_a_token_that_is_not_there_is_refused(lm, whole, at, token_id, error, words):
    with pytest.raises(error, match=words):
        labkit.branch(lm, whole, at, token_id)


def test_an_unknown_setting_is_refused(lm, whole):
    with pytest.raises(ConfigError, match="did you mean temperature"):
        labkit.branch(lm, whole, 3, 3, temprature=2)


def test_an_interrupt_leaves_the_branch_as_far_as_it_came():
    lm = fresh()
    whole = labkit.generate(lm, "to be", **WARM)
    left = iter([None] * 4)

    def interrupt(*_):
        if next(left, 1):
            raise KeyboardInterrupt

    lm.model.lm_head.register_forward_hook(interrupt)
    branched = labkit.branch(lm, whole, 10, 3)
    assert branched.finish_reason == "interrupted" and branched.ids[:11] == [*whole.ids[:10], 3]
    assert len(branched.ids) == 14


# --- the tree


@pytest.fixture
def tree(lm, whole) -> labkit.BranchTree:
    tree = labkit.BranchTree(whole, "first try")
    tree.add(labkit.branch(lm, tree.generation, 5, 3), 5, "a space")
    tree.add(labkit.branch(lm, tree.generation, 9, 4, seed=8), 9)
    tree.go(0)
    tree.add(labkit.branch(lm, tree.generation, 2, 6, temperature=0), 2, "cold")
    return tree


def test_a_tree_knows_what_came_from_what(tree):
    assert [row["parent"] for row in tree.rows()] == [None, 0, 1, 0]
    assert [row["at"] for row in tree.rows()] == [0, 5, 9, 2]
    assert [row["seed"] for row in tree.rows()] == [7, 7, 8, 7]
    assert tree.path(2) == [0, 1, 2] and tree.path() == [0, 3]
    assert tree.rows()[3]["text"] == tree.generation.text and tree.current == 3
    assert all(tree.nodes[i].generation.kept == tree.nodes[i].at for i in (1, 2, 3))


def test_a_tree_reads_as_an_indented_text(tree):
    assert repr(tree) == "BranchTree(4 nodes, current: 'cold')"
    assert str(tree) == (
        "- 0 first try: 30 tokens, length\n"
        "  - 1 a space at 5: 30 tokens, length\n"
        "    - 2 branch 2 at 9: 30 tokens, length\n"
        "  * 3 cold at 2: 30 tokens, length"
    )


def test_undo_and_redo_move_what_is_current_and_lose_nothing(lm, tree):
    assert [tree.current, *(tree.current for _ in range(5) if tree.undo())] == [3, 0, 2, 1, 0]
    assert not tree.undo() and tree.current == 0
    assert [tree.redo(), tree.redo(), tree.current] == [True, True, 2]
    tree.add(labkit.branch(lm, tree.generation, 20, 1), 20)
    assert (tree.current, tree.nodes[4].parent, len(tree.nodes)) == (4, 2, 5)
    assert not tree.redo() and tree.undo() and tree.current == 2
    tree.go(3)
    assert tree.path() == [0, 3]


def test_a_saved_tree_comes_back_the_same_and_can_be_branched(lm, tree):
    tree.undo()
    saved = json.loads(json.dumps(tree.to_dict()))
    again = labkit.BranchTree.from_dict(saved, lm.tokenizer)
    assert str(again) == str(tree) and again.rows() == tree.rows() and again.to_dict() == tree.to_dict()
    assert [node.generation for node in again.nodes] == [node.generation for node in tree.nodes]
    assert again.redo() and again.current == 3
    assert labkit.branch(lm, again.generation, 6, 3) == labkit.branch(lm, tree.nodes[3].generation, 6, 3)


def test_what_is_no_branch_of_the_current_generation_is_refused(lm, tree, whole):
    with pytest.raises(ConfigError, match="no branch of the current one"):
        tree.add(whole, 20)
    with pytest.raises(ConfigError, match="node 9: there are 0 … 3"):
        tree.go(9)
