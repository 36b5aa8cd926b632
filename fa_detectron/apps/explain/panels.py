"""Panels of one size in rows and columns, drawn with matplotlib."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

DPI = 100


class Panels:
    """Panels of one size with room for titles above, a caption below each row, and colour scales at the bottom.

    Args:
        size: (H, W) of a panel's image in pixels.
        panel: width of a panel, inches. caption: height below each row, inches.
    """

    def __init__(self, size: tuple[int, int], rows: int, columns: int, panel: float, caption: float) -> None:
        self._top, self._bottom, self._gap, self._left = 0.5, 0.75, 0.08, 0.35
        aspect = min(3.0, max(1 / 3, size[0] / size[1]))  # a very long image is letterboxed
        self._panel, self._caption = (panel, panel * aspect), caption
        self._rows = rows
        self._size = (
            self._left + columns * (panel + self._gap),
            self._top + rows * (panel * aspect + caption + self._gap) + self._bottom,
        )
        self._figure = Figure(figsize=self._size, dpi=DPI)

    def _place(self, row: int, column: int) -> tuple[float, float]:
        """The lower left corner of a panel, inches."""
        width, height = self._panel
        y = self._size[1] - self._top - row * (height + self._caption + self._gap) - height
        return self._left + column * (width + self._gap), y

    def _box(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        return x / self._size[0], y / self._size[1], width / self._size[0], height / self._size[1]

    def panel(self, row: int, column: int) -> Axes:
        axes = self._figure.add_axes(self._box(*self._place(row, column), *self._panel))
        axes.set(xticks=[], yticks=[])
        return axes

    def title(self, column: int, text: str) -> None:
        """Above the first row."""
        x, y = self._place(0, column)
        place = self._box(x, y + self._panel[1] + 0.07, 0, 0)[:2]
        self._figure.text(*place, text, fontsize=11, va="bottom", parse_math=False)

    def caption(self, row: int, title: str, text: str) -> None:
        """Below a row."""
        x, y = self._place(row, 0)
        place = self._box(x, y - 0.1, 0, 0)[:2]
        self._figure.text(*place, f"{title}:  {text}", fontsize=13, va="top", parse_math=False)

    def scale(self, column: int, shown: ScalarMappable) -> None:
        """The colours of a column, below the last row."""
        x, y = self._place(self._rows - 1, column)
        width = 0.8 * self._panel[0]
        axes = self._figure.add_axes(self._box(x + 0.1 * self._panel[0], y - self._caption - 0.3, width, 0.13))
        self._figure.colorbar(shown, cax=axes, orientation="horizontal").ax.tick_params(labelsize=9)

    def legend(self, handles: list[Line2D]) -> None:
        """Below the first column."""
        x, y = self._place(self._rows - 1, 0)
        place = self._box(x, y - self._caption + 0.1, 0, 0)[:2]
        self._figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=place,
            ncols=2,
            frameon=False,
            fontsize=10,
            borderpad=0,
            columnspacing=1.2,
        )

    def image(self) -> Image.Image:
        return render(self._figure)


def render(figure: Figure) -> Image.Image:
    """Draw without a window and without matplotlib's global state."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
