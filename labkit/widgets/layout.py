"""Where the parts of a widget stand. Rows that wrap, so that a narrow window shows the same in fewer columns."""

from typing import TYPE_CHECKING

import ipywidgets as ipw

if TYPE_CHECKING:
    from .generation import GenerationPlayground


def row(*parts: ipw.Widget, name: str) -> ipw.Box:
    """Parts side by side; ``name`` is the CSS class that says how (widgets.css)."""
    box = ipw.Box(parts)
    box.add_class(name)
    return box


def playground_rows(playground: "GenerationPlayground") -> list[ipw.Widget]:
    """The rows of a GenerationPlayground, from top to bottom."""
    controls = playground.controls
    return [
        playground.prompt_box,
        row(*controls.sliders.values(), name="lk-sliders"),
        row(
            controls.boxes["seed"], controls.new_seed, controls.boxes["greedy"], controls.boxes["use_cache"],
            controls.preset, playground.colour, name="lk-options",
        ),
        row(
            playground.generate_button, playground.stop_button, playground.live, playground.code_button,
            playground.help, name="lk-actions",
        ),
        playground.code,
        row(playground.status, playground.legend, name="lk-above"),
        playground.strip,
        playground.bars,
    ]  # fmt: skip
