"""A tree of branches: where each left its parent, how it goes on, and which one is current."""

from collections.abc import Mapping, Sequence
from typing import Any

from .base import BASE_CSS, View, captioned, decimals, escape, label, page, style_sheet, text_table, visible
from .colours import KINDS
from .figures import Drawing, short

CSS = BASE_CSS + style_sheet("branches.css")

# A node: dictionary with node (its number), label, parent (a number; None: the first), at (index of its first own
# token), tokens (how many, the shared ones included), begins (its first own tokens as text), finish_reason, seed and
# current (whether it is looked at).
Node = Mapping[str, Any]
HEAD = ["", "branch", "from token", "begins", "tokens", "ended by", "seed"]


def branch_tree(nodes: Sequence[Node], *, caption: str = "") -> View:
    """A line a node, branches below what they leave; bars show which tokens are its own.

    Args:
        nodes: parents before their branches.
    """
    ordered = _ordered(nodes)
    longest = max((node["tokens"] for node in nodes), default=0) or 1
    body = "".join(_html_row(node, depth, longest) for node, depth in ordered)
    head = "".join(f"<th>{name}" for name in [*HEAD[1:4], "", *HEAD[4:]])
    alt = ": ".join([f"{len(nodes)} branches", *captioned(caption)])
    said = f"<p class=lk-caption>{label(caption)}</p>" if caption else ""
    table = f'{said}<table class="lk-tree"><thead><tr>{head}</thead><tbody>{body}</tbody></table>'
    cells = [HEAD, *(_text_row(node, depth) for node, depth in ordered)]
    text = "\n".join(captioned(caption, text_table(cells)))
    keys = ("node", "label", "parent", "at", "begins", "tokens", "finish_reason", "seed", "current")
    rows = tuple({key: node[key] for key in keys} for node in nodes)
    return View(page(table, alt, CSS), text, alt, rows, _drawing(ordered, longest, visible(caption, spaces=False)))


def _ordered(nodes: Sequence[Node]) -> list[tuple[Node, int]]:
    """Nodes with their depth, each branch below its parent."""
    children: dict[int | None, list[Node]] = {}
    for node in nodes:
        children.setdefault(node["parent"], []).append(node)
    ordered, ahead = [], [(node, 0) for node in reversed(children.get(None, []))]
    while ahead:
        node, depth = ahead.pop()
        ordered.append((node, depth))
        ahead += [(child, depth + 1) for child in reversed(children.get(node["node"], []))]
    return ordered


def _facts(node: Node) -> list[str]:
    """at, begins, tokens, ended by, seed"""
    at = "" if node["parent"] is None else str(node["at"])
    return [at, visible(node["begins"]), str(node["tokens"]), visible(node["finish_reason"]), str(node["seed"])]


def _html_row(node: Node, depth: int, longest: int) -> str:
    at, begins, tokens, ended, seed = map(escape, _facts(node))
    here = ' class="lk-y" aria-current="true"' if node["current"] else ""
    name = label(f"{node['node']} {node['label']}")
    left, wide = 100 * node["at"] / longest, 100 * (node["tokens"] - node["at"]) / longest
    bar = f"<td class=lk-own style='--l:{decimals(left, 1)}%;--w:{decimals(max(0.6, wide), 1)}%'><i></i>"
    mark = "▶ " if node["current"] else ""
    return (
        f'<tr{here} data-pick="{node["node"]}" tabindex=0><th style="padding-left:{6 + 16 * depth}px">'
        f"{'└ ' if depth else ''}{mark}{name}<td>{at}<td class=lk-begins>{begins}{bar}<td>{tokens}<td>{ended}<td>{seed}"
    )


def _text_row(node: Node, depth: int) -> list[str]:
    name = f"{'  ' * depth}{node['node']} {visible(node['label'], spaces=False)}"
    return ["▶" if node["current"] else "", name, *_facts(node)]


def _drawing(ordered: Sequence[tuple[Node, int]], longest: int, title: str) -> Drawing:
    def paint(figure: Any) -> None:
        axis = figure.subplots()
        line = {node["node"]: y for y, (node, _) in enumerate(ordered)}
        for y, (node, _) in enumerate(ordered):
            colour = KINDS[0] if node["current"] else KINDS[-1]
            if node["parent"] is not None:
                axis.plot([node["at"]] * 2, [line[node["parent"]], y], color=KINDS[-1], lw=1)
            axis.barh(y, max(node["tokens"] - node["at"], 0.2), left=node["at"], height=0.2, color=colour)
            words = f"{node['node']} {visible(node['label'], spaces=False)}: {visible(node['begins'])}"
            axis.text(node["at"], y - 0.22, short(words, 60), fontsize="small")
        axis.set_ylim(len(ordered) - 0.5, -0.8)
        axis.set_xlim(0, longest)
        axis.set_yticks([])
        axis.set_xlabel("token")
        axis.set_title(short(title, 90), loc="left", fontsize="medium")
        axis.spines[["left", "top", "right"]].set_visible(False)

    return Drawing(8.0, 0.8 + 0.4 * max(1, len(ordered)), paint)
