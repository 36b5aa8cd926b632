"""Pictures of explanations: heat maps of several runs under each other, level by level, and the learned priors."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image
from torch import Tensor

from fa_detectron.inference import Run
from fa_detectron.visualization import class_colour

from .alignment import average
from .explanation import MAPS, Explanation
from .panels import DPI, Panels, render

_TITLES = {
    "score": "classification: score of the object's class",
    "quality": "regression: quality R of the predicted box",
    "weight": "foreground weight W in the object's bag",
}
_COLOURS = "magma"
_SHOWN_CLASSES = 6  # in a legend

Explained = Sequence[tuple[str, Explanation]]  # (title of the run, what it makes of the image)


def alignment_picture(explained: Explained, class_names: Sequence[str], notes: Sequence[str] = ()) -> Image.Image:
    """One image, a row a run: boxes, then score, quality and weight with one colour scale a column.

    Args:
        explained: the same image of each run.
        class_names: K names.
        notes: a sentence a run, for example the data set's average, written after the image's own figures.
    """
    first = explained[0][1]
    sheet = Panels(first.image.shape[:2], rows=len(explained), columns=1 + len(MAPS), panel=3.6, caption=0.62)
    maps = [{kind: explanation.merged_map(kind) for kind in MAPS} for _, explanation in explained]
    sheet.title(0, "truth (white), best-scored box (colour)")
    for row, (title, explanation) in enumerate(explained):
        _draw_boxes(sheet.panel(row, 0), explanation)
        for column, kind in enumerate(MAPS, start=1):
            axes = sheet.panel(row, column)
            shown = _heat(axes, maps[row][kind], max(float(m[kind].max()) for m in maps))
            _mark(axes, explanation)
            if row == 0:
                sheet.title(column, _TITLES[kind])
            if row == len(explained) - 1:
                sheet.scale(column, shown)
        note = f"; {notes[row]}" if row < len(notes) else ""
        sheet.caption(row, title, f"{figures_text(explanation)}{note}")
    sheet.legend([*_class_legend(first.classes, class_names), *_marker_legend()])
    return sheet.image()


def level_picture(explained: Explained) -> Image.Image:
    """One image, a row a level (the merge last), score, quality and weight of every run side by side.

    A column's kind has one colour scale for all levels and runs.
    """
    strides = explained[0][1].strides
    levels = len(strides)
    rows, columns = levels + 1, len(MAPS) * len(explained)
    sheet = Panels(explained[0][1].image.shape[:2], rows, columns, panel=2.6, caption=0.0)
    for index, kind in enumerate(MAPS):
        maps = [[*(e.level_map(kind, level) for level in range(levels)), e.merged_map(kind)] for _, e in explained]
        highest = max(float(pixels.max()) for of_run in maps for pixels in of_run)
        for number, (title, explanation) in enumerate(explained):
            column = number * len(MAPS) + index
            for row, pixels in enumerate(maps[number]):
                axes = sheet.panel(row, column)
                shown = _heat(axes, pixels, highest)
                _outline(axes, explanation, 0.6)
                if column == 0:
                    name = f"stride {strides[row]}" if row < levels else "merged"
                    axes.set_ylabel(name, fontsize=10)
            sheet.title(column, f"{title}\n{kind}")
            sheet.scale(column, shown)
    return sheet.image()


def prior_picture(runs: Sequence[tuple[str, Run]]) -> Image.Image:
    """The Gaussian priors, a row a run, a column a level: ellipses around mu with the half-axes |sigma|, in cells.

    Args:
        runs: title and run; a run whose priors all levels share has one column.
    """
    priors = [(title, run, *(_by_level(x) for x in (run.model.mu, run.model.sigma))) for title, run in runs]
    strides = runs[0][1].model.head.strides
    reach = max(float(np.max(np.abs(mu) + np.abs(sigma))) for _, _, mu, sigma in priors) * 1.08
    columns = max(len(mu) for _, _, mu, _ in priors)
    figure = Figure(figsize=(2.5 * columns + 0.8, 2.75 * len(runs) + 0.9), dpi=DPI)
    grid = figure.subplots(len(runs), columns, squeeze=False, sharex=True, sharey=True)
    for row, (title, _, mu, sigma) in enumerate(priors):
        for column, axes in enumerate(grid[row]):
            if column >= len(mu):
                axes.set_axis_off()
                continue
            axes.add_patch(Ellipse((0, 0), 2, 2, fill=False, color="0.6", linestyle=":"))
            for index, (centre, deviation) in enumerate(zip(mu[column], sigma[column])):
                colour = _rgb(class_colour(index))
                axes.add_patch(Ellipse(centre, *(2 * np.abs(deviation)), fill=False, color=colour, linewidth=1.8))
                axes.plot(*centre, "+", color=colour)
            axes.set(xlim=(-reach, reach), ylim=(reach, -reach), aspect="equal")  # y downwards, as in the image
            axes.axhline(0, color="0.85", linewidth=0.6, zorder=0)
            axes.axvline(0, color="0.85", linewidth=0.6, zorder=0)
            axes.set_title("all levels" if len(mu) == 1 else f"stride {strides[column]}", fontsize=10)
        grid[row][0].set_ylabel(title, fontsize=11, parse_math=False)
    names = runs[0][1].class_names
    figure.legend(handles=_class_legend(range(len(names)), names), loc="lower center", ncols=6, frameon=False)
    figure.suptitle("learned priors: mu (+) and sigma (half-axes) in cells; dotted: the start", fontsize=11)
    figure.tight_layout(rect=(0, 0.35 / figure.get_figheight(), 1, 1))
    return render(figure)


def figures_text(explanation: Explanation) -> str:
    """The image's figures in words."""
    found = average([explanation.alignment])
    left = f", {found.left_out} left out" if found.left_out else ""
    if not found.boxes:
        return f"no box to measure{left}"
    boxes = f"{found.boxes} box{'es' if found.boxes > 1 else ''}{left}"
    return f"misalignment {found.misalignment:.3f}, rank agreement {found.rank_agreement:.3f} ({boxes})"


def _heat(axes: Axes, values: Tensor, highest: float):
    height, width = values.shape
    return axes.imshow(
        values.numpy(), cmap=_COLOURS, vmin=0, vmax=highest or 1, extent=(0, width, height, 0), interpolation="nearest"
    )


def _draw_boxes(axes: Axes, explanation: Explanation) -> None:
    height, width = explanation.image.shape[:2]
    axes.imshow(explanation.image, extent=(0, width, height, 0))
    _outline(axes, explanation, 1.6)
    best = explanation.alignment.best_scored
    for index, location in enumerate(best.tolist()):
        if location >= 0:
            colour = _rgb(class_colour(int(explanation.classes[index])))
            axes.add_patch(_rectangle(explanation.predictions[location], color=colour, linewidth=1.6))
    axes.set(xlim=(0, width), ylim=(height, 0))


def _outline(axes: Axes, explanation: Explanation, width: float) -> None:
    """Ground truth; dashed where it is left out of the measure."""
    edge = [withStroke(linewidth=width + 1, foreground="black")]  # or it would be lost on a bright photograph
    for box, measured in zip(explanation.boxes, explanation.alignment.measured.tolist()):
        style = {"linestyle": "-" if measured else "--", "path_effects": edge}
        axes.add_patch(_rectangle(box, color="white", linewidth=width, **style))


def _mark(axes: Axes, explanation: Explanation) -> None:
    _outline(axes, explanation, 0.8)
    for indices, marker, size in (
        (explanation.alignment.best_box, "o", 9),
        (explanation.alignment.best_scored, "x", 6),
    ):
        x, y = explanation.locations[indices[indices >= 0]].unbind(1)
        axes.plot(x, y, marker, color="cyan", fillstyle="none", markersize=size, markeredgewidth=1.4, linestyle="none")
    height, width = explanation.image.shape[:2]
    axes.set(xlim=(0, width), ylim=(height, 0))


def _rectangle(box: Tensor, **style) -> Rectangle:
    x1, y1, x2, y2 = box.tolist()
    return Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **style)


def _class_legend(classes: Sequence[int] | Tensor, names: Sequence[str]) -> list[Line2D]:
    shown = sorted({int(c) for c in classes})[:_SHOWN_CLASSES]
    return [Line2D([], [], color=_rgb(class_colour(c)), linewidth=2, label=names[c].replace("$", r"\$")) for c in shown]


def _marker_legend() -> list[Line2D]:
    style = {"color": "darkcyan", "fillstyle": "none", "linestyle": "none"}
    return [
        Line2D([], [], marker="x", label="location of the best score", **style),
        Line2D([], [], marker="o", label="location of the best box", **style),
    ]


def _by_level(prior: Tensor) -> np.ndarray:
    """(L, K, 2), or (1, K, 2) where all levels share one."""
    values = prior.detach().cpu().numpy()
    return values if values.ndim == 3 else values[None]


def _rgb(colour: tuple[int, int, int]) -> tuple[float, ...]:
    return tuple(channel / 255 for channel in colour)
