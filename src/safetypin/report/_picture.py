"""A figure that a page shows inline and a folder keeps as PNG and SVG."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from safetypin.artifacts import replacing
from safetypin.report._style import drawn, inline_svg

FORMATS = ("png", "svg")
DPI = 200
# no date and no version, so that the same numbers give the same bytes
_METADATA = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure, drawn when it is asked for.

    Attributes:
        name: Of its files, and the beginning of its ids on the page.
        title: Text alternative.
        width: Inches.
        height: Inches.
        draw: Draws on a figure of that size.
    """

    name: str
    title: str
    width: float
    height: float
    draw: Callable[[Figure], None]

    def inline(self) -> Markup:
        """Return the figure as part of a page; it takes its colours from there."""
        with drawn(self.width, self.height) as figure:
            self.draw(figure)
            return inline_svg(figure, name=self.name, title=self.title)

    def save(self, folder: Path) -> list[Path]:
        """Write the figure on white as PNG and as SVG; return the two paths."""
        with drawn(self.width, self.height) as figure:
            self.draw(figure)
            figure.patch.set(visible=True, facecolor="white")
            return [self._write(figure, folder, kind) for kind in FORMATS]

    def _write(self, figure: Figure, folder: Path, kind: str) -> Path:
        path = folder / f"{self.name}.{kind}"
        with replacing(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=DPI, metadata=_METADATA[kind])
        return path
