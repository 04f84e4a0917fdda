"""How every figure looks, and how a matplotlib figure becomes inline SVG.

Each ink has a colour that stands for a CSS variable, so the figures follow the page into dark
mode and onto paper. Text stays text: it can be searched, and takes the page's font.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

from markupsafe import Markup, escape
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, SOFT, GRID, PAPER, STRONG = "#1b2127", "#6b747d", "#dde1e5", "#fffffe", "#b8400e"

_VARIABLES = {INK: "ink", SOFT: "soft", GRID: "line", PAPER: "paper", STRONG: "strong"}
_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "safetypin",
    "font.family": ["sans-serif"],
    "font.size": 9.0,
    "axes.facecolor": "none",
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "text.color": INK,
    "text.parse_math": False,
}
_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


@contextmanager
def drawn(width: float, height: float) -> Iterator[Figure]:
    """Yield a figure of that size in inches, in the house style; touches no global state."""
    with style.context(["default", _RC]):
        figure = Figure(figsize=(width, height))
        figure.patch.set_visible(False)
        yield figure


def svg_text(figure: Figure) -> str:
    """Return the figure as the text of an SVG file without a background.

    Call it inside `drawn`, where the style still holds.
    """
    raw = io.StringIO()
    figure.savefig(raw, format="svg", metadata=_METADATA)
    return raw.getvalue()


def inline_svg(figure: Figure, *, name: str, title: str) -> Markup:
    """Return the figure as an `<svg>` whose ids begin with `name`; the same bytes every time.

    Call it inside `drawn`, where the style still holds. `title` is the text alternative.
    """
    return inlined(svg_text(figure), width=figure.get_figwidth(), name=name, title=title)


def inlined(text: str, *, width: float, name: str, title: str) -> Markup:
    """Return what `svg_text` gave, `width` inches wide, as part of a page."""
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Its style sheet would reach the whole page; report.css holds the same two rules.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\1{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    box = re.search(r'viewBox="[^"]*"', text)
    assert box, "matplotlib writes a viewBox"
    opening = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box.group()} role="img" '
        f'style="min-width: {66 * width:.0f}px; max-width: {104 * width:.0f}px" '
        f'aria-labelledby="{name}-title"><title id="{name}-title">{escape(title)}</title>'
    )
    return Markup(opening + text[text.index(">") + 1 :].rstrip())


def light_grid(axes: Axes) -> None:
    """Draw faint horizontal lines behind the data."""
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
