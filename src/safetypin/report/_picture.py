"""A figure that a page shows inline and a folder keeps as PNG and SVG."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from safetypin.artifacts import replacing, write_text
from safetypin.report._style import drawn, inline_svg, inlined, svg_text

DPI = 200
_WHITE = '<rect width="100%" height="100%" style="fill: #ffffff"/>'


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
            return self._write(folder, figure, svg_text(figure))

    def publish(self, folder: Path) -> Markup:
        """Do what `save` and `inline` do; what takes long, drawing, is done once for both."""
        with drawn(self.width, self.height) as figure:
            self.draw(figure)
            text = svg_text(figure)
            self._write(folder, figure, text)
        return inlined(text, width=self.width, name=self.name, title=self.title)

    def _write(self, folder: Path, figure: Figure, text: str) -> list[Path]:
        png, svg = (folder / f"{self.name}.{kind}" for kind in ("png", "svg"))
        figure.patch.set(visible=True, facecolor="white")
        with replacing(png) as temporary:
            # no version, so that the same numbers give the same bytes
            figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
        write_text(svg, text.replace('<g id="figure_1">', f'{_WHITE}\n <g id="figure_1">', 1))
        return [png, svg]
