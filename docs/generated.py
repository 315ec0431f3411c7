"""Writes what the pages take from the tables of the package, before each build."""

from pathlib import Path

import keras
import matplotlib

import resnext_keras
from resnext_keras.models.data_format import image_shape
from resnext_keras.models.flops import stage_costs
from resnext_keras.models.resnext import ResNeXt
from resnext_keras.models.specs import ARCHITECTURES, architecture_name
from resnext_keras.weights.registry import WEIGHT_SETS, default_set

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.transforms import Bbox

# The public function of each architecture that has one.
FUNCTIONS = {architecture_name(name): name for name in resnext_keras.__all__}
# Where a label may stand: offset from its point, and alignment.
PLACES = (
    (6, 0, "left", "center"),
    (-6, 0, "right", "center"),
    (0, 6, "center", "bottom"),
    (0, -6, "center", "top"),
    (6, -8, "left", "center"),
    (6, 8, "left", "center"),
)
FAMILIES = {"resnext": ("o", "#2166ac"), "seresnext": ("s", "#e08214")}


def write(folder: Path) -> None:
    """Writes the tables as Markdown, and the plot in the colours of both themes."""
    folder.mkdir(exist_ok=True)
    costs = {name: cost_of(name) for name in ARCHITECTURES}
    update(folder / "architectures.md", architectures(costs))
    update(folder / "defaults.md", defaults())
    update(folder / "sets.md", all_sets())
    plot(folder / "accuracy.svg", {name: cost for name, (_, cost) in costs.items()})


def update(path: Path, text: str) -> None:
    """Writes a file unless it is the same, so that Sphinx reads no page again."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def cost_of(name: str) -> tuple[int, int]:
    """Parameters and multiply-adds of a network, whose weights are not allocated."""
    spec = ARCHITECTURES[name]
    with keras.StatelessScope(initialize_variables=False):
        network = ResNeXt(
            spec,
            weights=None,
            input_shape=image_shape(spec.image_size, spec.image_size),
            classes=spec.classes,
        )
        costs = stage_costs(network)
    return network.count_params(), sum(cost.multiply_adds for cost in costs)


def function_of(name: str) -> str:
    """The public function of an architecture, as a link; empty if there is none."""
    public = FUNCTIONS.get(name)
    return f"{{py:func}}`~resnext_keras.{public}`" if public else ""


def table(header: tuple[str, ...], rows: list[tuple], right: tuple[int, ...]) -> str:
    """A table in Markdown; the columns `right` are flush right."""
    rules = ["---:" if n in right else "---" for n in range(len(header))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, tuple(rules), *rows))


def architectures(costs) -> str:
    return table(
        ("function", "`ResNeXt(name)`", "parameters", "multiply-adds", "image size"),
        [
            (
                function_of(name),
                f"`{name}`",
                f"{parameters:,}",
                f"{multiply_adds / 1e9:.2f} G",
                str(ARCHITECTURES[name].image_size),
            )
            for name, (parameters, multiply_adds) in costs.items()
        ],
        (2, 3, 4),
    )


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}".replace("%", " %")


def defaults() -> str:
    sets = [(name, default_set(name)) for name in ARCHITECTURES]
    return table(
        ("architecture", '`"imagenet"` is', "top-1", "at"),
        [
            (
                f"`{name}`",
                f"`{chosen.tag}`",
                percent(chosen.best.top1),
                str(chosen.best.preprocessing.size),
            )
            for name, chosen in sets
            if chosen
        ],
        (2, 3),
    )


def all_sets() -> str:
    def figure(share):
        return percent(share).removesuffix(" %")

    return table(
        ("name", "top-1, %", "top-5, %", "at", "by", "licence"),
        [
            (
                ", ".join(f"`{n}`" for n in (weight_set.name, *weight_set.aliases)),
                figure(weight_set.best.top1),
                figure(weight_set.best.top5),
                str(weight_set.best.preprocessing.size),
                weight_set.best.source or "",
                weight_set.licence,
            )
            for weight_set in WEIGHT_SETS.values()
        ],
        (1, 2, 3),
    )


def plot(path: Path, multiply_adds: dict[str, int]) -> None:
    """Top-1 accuracy of the default sets against multiply-adds at their image size.

    Multiply-adds grow with the number of pixels.
    """
    grey = "#808080"  # legible on white and on black
    figure, axes = plt.subplots(figsize=(8, 4.8))
    axes.set_xscale("log")
    ticks = [2, 5, 10, 20, 50, 100]
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.set_xlim(1.5, 300)
    points = {}
    for name in ARCHITECTURES:
        if chosen := default_set(name):
            family = "seresnext" if "seresnext" in name else "resnext"
            best = chosen.best
            scale = (best.preprocessing.size / ARCHITECTURES[name].image_size) ** 2
            points[name] = multiply_adds[name] * scale / 1e9, 100 * best.top1
            axes.plot(*points[name], FAMILIES[family][0], color=FAMILIES[family][1])
    figure.canvas.draw()  # so that places in pixels are known
    taken = [
        Bbox.from_bounds(x - 4, y - 4, 8, 8)
        for x, y in axes.transData.transform(list(points.values()))
    ]
    for name, point in points.items():
        for x, y, side, height in PLACES:  # the last one is taken in any case
            label = axes.annotate(
                name,
                point,
                (x, y),
                textcoords="offset points",
                fontsize=7,
                color=grey,
                ha=side,
                va=height,
            )
            box = label.get_window_extent().expanded(1.02, 1)
            if not box.count_overlaps(taken) or (x, y, side, height) == PLACES[-1]:
                break
            label.remove()
        taken.append(box)
    axes.set_xlabel("billion multiply-adds at the image size of the accuracy")
    axes.set_ylabel("top-1 accuracy on ImageNet, %")
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(grey)
    axes.tick_params(colors=grey)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(grey)
    axes.grid(color=grey, alpha=0.2)
    with plt.rc_context({"svg.hashsalt": "resnext_keras"}):
        figure.savefig(
            path, transparent=True, bbox_inches="tight", metadata={"Date": None}
        )
    plt.close(figure)
