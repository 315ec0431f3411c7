"""The image of a benchmark: a panel a table, a bar a contender."""

import os
import statistics

from resnext_keras.benchmark.report import Panel, Report, in_seconds

COLOURS = {"ours": "#2166ac", "torch": "#e08214", "other": "#9e9e9e"}
KINDS = {"ours": "resnext_keras", "torch": "PyTorch", "other": "others"}

FLOOR = {"color": "black", "linestyle": "--", "linewidth": 1}

ROOM = 2.5
"""Bars end at this many times the median contender; longer ones are cut off there."""

WIDTH = 10  # Inches, which a README's column of 830 pixels shows at 83 an inch.


def plot(report: Report, path: str | os.PathLike) -> None:
    """Draws the tables of a report.

    Args:
        report: What was measured.
        path: The PNG file to be written.

    Raises:
        ImportError: matplotlib is not installed.
    """
    matplotlib = load_matplotlib()
    panels = report.panels
    columns = min(2, len(panels))
    heights = [
        1.5 + max(len(panel.rows) for panel in panels[start : start + columns])
        for start in range(0, len(panels), columns)
    ]
    figure = matplotlib.figure.Figure(
        (WIDTH, 0.8 + 0.27 * sum(heights)), layout="constrained"
    )
    grid = figure.subplots(
        len(heights), columns, squeeze=False, height_ratios=heights
    ).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        _draw(axes, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    facts = report.facts
    figure.suptitle(
        f"{facts['model']}, {facts['size']} x {facts['size']} pixels, float32, "
        f"{facts['threads']} threads of {facts['machine']['processor']}",
        fontsize=11,
    )
    kinds = {row.kind for panel in panels for row in panel.rows if row.median}
    handles = [
        matplotlib.patches.Patch(color=COLOURS[kind], label=label)
        for kind, label in KINDS.items()
        if kind in kinds
    ]
    handles.append(
        matplotlib.lines.Line2D([], [], **FLOOR, label="floor: large matrix products")
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, format="png", dpi=160)


def load_matplotlib():
    """The package matplotlib, of the extra `bench`.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import matplotlib.figure
        import matplotlib.lines
        import matplotlib.patches
    except ImportError as error:
        raise ImportError(
            "Expected the package matplotlib to be installed, which draws the plot: "
            f'pip install "resnext-keras[bench]". Received: {error}'
        ) from error
    return matplotlib


def _draw(axes, panel: Panel):
    """The contenders from the fastest to the slowest, and the floor as a line."""
    rows = sorted((r for r in panel.rows if r.median), key=lambda row: row.median)
    bars = [row for row in rows if row.kind != "floor"]
    end = ROOM * statistics.median([row.median for row in bars] or [1])
    tips = []
    for place, row in enumerate(bars):
        is_cut = row.median > end
        tips.append(end if is_cut else max(row.median, row.high))
        axes.barh(place, min(row.median, end), 0.7, color=COLOURS[row.kind])
        axes.text(tips[-1], place, f" {in_seconds(row.median)}", va="center")
        if is_cut:
            axes.text(
                0.93 * end, place, "//", color="white", va="center", weight="bold"
            )
        else:
            spread = [[row.median - row.low], [row.high - row.median]]
            axes.errorbar(row.median, place, xerr=spread, color="black", linewidth=0.8)
    for row in rows:
        if row.kind == "floor":
            axes.axvline(row.median, **FLOOR)
    axes.set_yticks(range(len(bars)), [row.label for row in bars])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.35 * max(tips, default=end))  # The rest is for the numbers.
    unit, factor = ("s", 1) if max(tips, default=end) >= 1 else ("ms", 1000)
    axes.xaxis.set_major_formatter(lambda value, _: f"{factor * value:g} {unit}")
    axes.locator_params(axis="x", nbins=4)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(panel.title, loc="left", fontsize=10)
