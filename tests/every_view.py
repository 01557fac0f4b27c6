"""One example of every view, every text in it the same given one: what the tests of all views run on."""

from collections.abc import Callable

from labkit import views
from labkit.views import View


def token(text="a", probability=0.25, rank=1, entropy=1.5, alternatives=None):
    if alternatives is None:
        alternatives = [
            alternative("b", 0.5, 0.45, 0.55, 0.6),
            alternative(text, probability, 0.25, 0.3, 0.4),
            alternative("c", 0.125, 0.1, 0.08, removed_by="top_k"),
        ]
    return {"piece": text, "probability": probability, "rank": rank, "entropy": entropy, "alternatives": alternatives}


HEADINGS = ("model", "after penalties", "after temperature", "after filters")


def alternative(text, *probabilities, removed_by=None):
    shown = dict(zip(HEADINGS, probabilities, strict=False))
    return {"piece": text, "probabilities": shown, "removed_by": removed_by}


def candidate(i, text, probabilities, removed_by=None, because="", noise=None, score=None):
    return {"id": i, "piece": text, "probabilities": probabilities, "removed_by": removed_by, "because": because,
            "noise": noise, "score": score}  # fmt: skip


def columns(text="b", caption="after x", setting="2", draw="Gumbel(seed=1)"):
    stages = [
        {"stage": "model", "setting": "", "kept": 1000, "kept_mass": 1.0, "entropy": 2.0, "kl": 0.0},
        {"stage": "temperature", "setting": "0.8", "kept": 1000, "kept_mass": 1.0, "entropy": 1.75, "kl": 0.25},
        {"stage": "top_k", "setting": setting, "kept": 2, "kept_mass": 0.875, "entropy": 0.5, "kl": 0.13},
        {"stage": "top_p", "setting": "0.9", "kept": 2, "kept_mass": 1.0, "entropy": 0.5, "kl": 0.0},
    ]
    candidates = [
        candidate(7, "a", [0.5, 0.6, 0.7, 0.7], noise=-0.5, score=-0.86),
        candidate(3, text, [0.25, 0.2, 0.3, 0.3], noise=1.5, score=0.3),
        candidate(9, "c", [0.125, 0.1, 0.0, 0.0], "top_k", f"1.5 < 2, logit {text}"),
    ]
    sentence = f"{text} won."
    return views.stage_columns(stages, candidates, chosen=3, draw=draw, in_text=7, caption=caption, sentence=sentence)


def segment(start, end, i, text):
    return {"start": start, "end": end, "id": i, "piece": text}


def strips(text="b", note=""):
    in_two = [segment(0.0, 0.75, 7, "a"), segment(0.75, 5.0, 3, text)]
    in_three = [segment(1, 1, 7, "a"), segment(2, 39, 3, text), segment(40, 1000, 9, "c")]
    return views.break_strips(
        [
            {"parameter": "temperature", "value": 1.25, "low": 0, "high": 2, "segments": in_two, "note": note},
            {"parameter": "top_k", "value": 10, "low": 1, "high": 1000, "log": True, "segments": in_three},
            {"parameter": "min_p", "value": None, "low": 0, "high": 1, "segments": [segment(0.0, 1.0, 3, text)]},
        ],
        chosen=3,
        caption=f"a draw of {text}",
    )


def compared(text="b"):
    def side(probability, score, removed_by=None):
        return {"probability": probability, "score": score, "removed_by": removed_by}

    candidates = [
        {"id": 7, "piece": "a", "model": 0.5, "sides": [side(0.625, -0.5), side(0.75, 0.25)]},
        {"id": 3, "piece": text, "model": 0.25, "sides": [side(0.375, 0.75), side(None, None, "top_k")]},
    ]
    changes = [("top_k", "off", "1"), ("dialect", text, "hf")]
    return views.what_if(candidates, chosen=(3, 7), changes=changes, caption=f"a instead of {text}")


def answer(text="b"):
    facts, ways = [("rank", "8"), (text, text)], [("top_p", "from 0.937"), ("top_k", "")]
    return views.why_not(f"{text} was removed.", facts, ways, piece=text)


def heat(text="a"):
    """Two rows and two columns, one of them marked; one cell empty."""
    values = [[0.25, None], [-0.5, 1.0]]
    return views.heat_map(values, rows=[text, "b"], columns=[text, "long"], caption=text, marked=[True, False])


def lens(text="a"):
    cells = [
        {"point": point, "position": t, "piece": text, "first": text, "p": 0.25 + 0.125 * t, "entropy": 1.5, "kl": 0.75}
        for point in ("embedding", text)
        for t in range(2)
    ]
    return views.lens_grid(cells, caption=text, note=text)


def strip(text="a"):
    return views.token_strip([token(text), token(text, 0.5, 0, 0.25, [alternative(text, 0.5, removed_by=text)])],
                             prompt=[text])  # fmt: skip


def timeline(text="a"):
    steps = [
        {"piece": text, "probability": 0.125, "drawn_from": 0.25, "rank": 3, "entropy": 1.75},
        {"piece": "b", "probability": 0.5, "drawn_from": 0.625, "rank": 0, "entropy": 0.5},
    ]
    return views.run_timeline(steps, caption=text, selected=1)


def followed(text="a"):
    values = [{"point": "embedding", "p": 0.0625, "rank": 812}, {"point": text, "p": 0.75, "rank": 0}]
    return views.trajectories([{"piece": text, "values": values}, {"piece": "b", "values": values}], caption=text)


def checkpoints(text="a"):
    points = [
        {"checkpoint": text, "step": 100, text: 2.5, "accuracy": 0.125},
        {"checkpoint": "b", "step": 400, text: 1.25, "accuracy": 0.875},
        {"checkpoint": "c", "step": None, text: 1.5, "accuracy": None},
    ]
    return views.checkpoint_trajectory(points, caption=text)


def heads(text="a"):
    rows = [{"layer": i, "head": j, text: 0.25 * i + 0.125 * j} for i in range(2) for j in range(3)]
    return views.head_grid(rows, text, caption=text, selected=(1, 2))


WEIGHTS = ((1.0, 0.0, 0.0), (0.25, 0.75, 0.0), (0.5, 0.375, 0.125))


def pattern(text="a"):
    return views.head_pattern(WEIGHTS, [text, "b", text], caption=text, selected=1)


def patterns(text="a"):
    rows = [{"layer": i, "head": j, text: 0.25 * i + 0.125 * j} for i in range(2) for j in range(2)]
    return views.attention_grid([[WEIGHTS, WEIGHTS]] * 2, rows, text, caption=text)


def cache(text="a"):
    layer = {"layer": 0, "kind": text, "n_tokens": 3, "kept": [0, 2], "positions": "0, 2", "bytes": 1024,
             "bytes_full": 4096, "key_norms": [1.5, 2.25, 0.75], "value_norms": [0.5, 0.25, 3.5]}  # fmt: skip
    full = layer | {"layer": 1, "kept": [0, 1, 2], "positions": "0–2", "bytes": 4096}
    return views.cache_map([layer, full], pieces=[text, "b"], caption=text)


def branches(text="a"):
    first = {"node": 0, "label": text, "parent": None, "at": 0, "tokens": 30, "begins": text, "finish_reason": text,
             "seed": 17, "current": False}  # fmt: skip
    second = first | {"node": 1, "parent": 0, "at": 12, "tokens": 25, "current": True}
    return views.branch_tree([first, second], caption=text)


def sides(text="a"):
    first = [{"piece": text, "delta": -0.25, text: -1.5}, {"piece": "b", "delta": 2.5, text: -0.125}]
    second = [{"piece": text, "delta": 0.0, text: -2.25}, {"piece": text, "delta": None, text: -3.5}, {"piece": "c"}]
    both = [{"name": text, "tokens": first}, {"name": "B", "tokens": second}]
    return views.comparison_strip(both, caption=text, words=text)


EVERY: dict[str, Callable[[str], View]] = {
    "token_strip": strip,
    "stage_columns": lambda text: columns(text, caption=text, setting=text, draw=text),
    "break_strips": lambda text: strips(text, note=text),
    "what_if": compared,
    "why_not": answer,
    "lens_grid": lens,
    "heat_map": heat,
    "run_timeline": timeline,
    "trajectories": followed,
    "checkpoint_trajectory": checkpoints,
    "head_grid": heads,
    "head_pattern": pattern,
    "attention_grid": patterns,
    "cache_map": cache,
    "branch_tree": branches,
    "comparison_strip": sides,
    "side_by_side": lambda text: views.side_by_side([heads(text), answer(text)], caption=text),
    "stack": lambda text: views.stack([timeline(text), sides(text)], caption=text),
}
