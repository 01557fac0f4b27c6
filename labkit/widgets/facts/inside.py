"""The data of the views that look inside: heads, patterns, the lens, the cache."""

from collections.abc import Sequence
from typing import Any

from ...inspection import AttentionMaps, CacheReport, LogitLens
from ...inspection.reading import place


def head_grid(maps: AttentionMaps) -> dict[str, Any]:
    """Everything that views.head_grid draws but which number: one of ``inspection.attention.PROPERTIES``."""
    return {"heads": [{key: None if v != v else v for key, v in head.items()} for head in maps.heads()]}


def head_pattern(maps: AttentionMaps, layer: int, head: int, position: int | None = None) -> dict[str, Any]:
    """Everything that views.head_pattern draws of one head.

    Args:
        position: of the token whose row is marked.
    """
    return {
        "weights": maps.pattern(layer, head).numpy(),
        "pieces": maps.pieces,
        "caption": f"layer {layer}, head {head}",
        "selected": None if position is None else place(position, len(maps.ids)),
    }


def attention_grid(maps: AttentionMaps) -> dict[str, Any]:
    """Everything that views.attention_grid draws."""
    return {"patterns": [maps.pattern(layer).numpy() for layer in range(maps.n_layer)], **head_grid(maps)}


def trajectories(lens: LogitLens, position: int = -1, tokens: Sequence[int | str] = ()) -> dict[str, Any]:
    """Everything that views.trajectories draws: tracked tokens after one position.

    Args:
        tokens: which ones, as ids or text; all that were tracked without it.
    """
    wanted = tokens or lens.tracked
    t = place(position, len(lens.ids))
    values = [lens.trajectory(token, t) for token in wanted]
    names = [lens.names[token] if isinstance(token, int) else token for token in wanted]
    return {
        "lines": [{"piece": name, "values": _without_logits(line)} for name, line in zip(names, values, strict=True)],
        "caption": f"after token {t}, “{lens.pieces[t]}”",
    }


def _without_logits(line: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value[key] for key in ("point", "p", "rank")} for value in line]


def cache_map(report: CacheReport, pieces: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that views.cache_map draws.

    Args:
        pieces: of the tokens that the report is about.
    """
    layers = [
        {
            "layer": layer.layer,
            "kind": layer.kind,
            "n_tokens": report.n_tokens,
            "kept": layer.kept,
            "positions": row["positions"],
            "bytes": layer.nbytes,
            "bytes_full": layer.nbytes_full,
            "key_norms": layer.key_norms,
            "value_norms": layer.value_norms,
        }
        for layer, row in zip(report.layers, report.rows(), strict=True)
    ]
    return {"layers": layers, "pieces": pieces, "caption": f"the cache after {report.n_tokens} tokens"}
