"""The tables and the plot of a benchmark, from its JSON file.

python benchmarks/tables.py FILE.json [--plot FILE.png]
"""

import argparse
import json
import statistics
from pathlib import Path

TITLES = {"predict": "Prediction", "train": "Training step"}
COLOURS = {"ours": "#2166ac", "torch": "#e08214", "other": "#9e9e9e"}

TRAIN_COST = 3
"""A training step by a prediction: each convolution has two gradients."""


def panels(report: dict) -> dict[tuple[str, int, str], list[dict]]:
    """The rows of each task, batch and precision, as `row` makes them.

    The last row is the floor, where it was measured.
    """
    groups, rates = {}, {}
    for result in report["results"]:
        precision = precision_of(result, report)
        if result["task"] in TITLES:
            group = result["task"], result["batch"], precision
            groups.setdefault(group, []).append(result)
        elif result["task"] == "floor" and result["seconds"]:
            operations = 2 * result["options"]["side"] ** 3
            rates[precision] = operations / min(result["seconds"])
    if report.get("gflops"):  # files older than 2026-11-28
        rates[precision_of({}, report)] = report["gflops"] * 1e9
    tables = {}
    for (task, batch, precision), results in groups.items():
        medians = [
            statistics.median(r["seconds"])
            for r in results
            if r["kind"] == "torch" and r["seconds"]
        ]
        base = min(medians, default=None)
        rows = [row(result, base) for result in results]
        if rate := rates.get(precision):
            cost = TRAIN_COST if task == "train" else 1
            seconds = cost * batch * 2 * report["multiply_adds"] / rate
            name = f"floor, {rate / 1e9:.0f} GFLOP/s"
            floor = {"contender": name, "kind": "floor", "batch": batch}
            rows.append(row(floor | {"seconds": [seconds]}, base))
        tables[task, batch, precision] = rows
    return tables


def precision_of(result: dict, report: dict) -> str:
    """Of a result; files older than 2026-11-30 have one precision for all."""
    return result.get("precision") or report.get("precision", "float32")


def row(result: dict, base: float | None) -> dict:
    """The numbers of one contender in one table.

    Args:
        result: What was measured, as the JSON file has it.
        base: Median seconds of the best of torch's, if there is one.

    Returns:
        Name and kind; median and quartiles in seconds; the ratio to `base`; images
        per second; median peak memory in bytes, of the process and on the GPU;
        seconds of the longest first call; why it failed. Unknown ones are missing.
    """
    numbers = {"contender": result["contender"], "kind": result["kind"]}
    if seconds := result["seconds"]:
        numbers["median"] = statistics.median(seconds)
        numbers["images"] = result["batch"] / numbers["median"]
        if base:
            numbers["ratio"] = numbers["median"] / base
    if len(seconds) > 1:
        low, _, high = statistics.quantiles(seconds, method="inclusive")
        numbers["quartiles"] = low, high
    for name in ("peak_bytes", "device_peak_bytes"):
        if result.get(name):
            numbers[name] = statistics.median(result[name])
    if result.get("first_seconds"):
        numbers["first"] = max(result["first_seconds"])
    return numbers | {"failed": result.get("reason", "")}


def markdown(report: dict) -> str:
    """What the times depend on, and a table for each task and batch."""
    machine = report["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in report["versions"].items())
    place = [
        machine.get("accelerator"),
        f"{report['threads']} threads of {machine['processor']}",
        machine["vectors"],
        f"{machine['memory'] / 2**30:.0f} GB" if machine["memory"] else "",
    ]
    lines = [
        f"{report['model']}, {report['size']} x {report['size']} pixels, Keras on "
        f"{report.get('backend', 'tensorflow')}, {', '.join(filter(None, place))}, "
        f"rounds: {report['rounds']}, {report['date']}, `{report['command']}`: "
        f"{versions}."
    ]
    if "agreement" in report:
        lines += ["", agreement_line(report["agreement"])]
    for group, rows in panels(report).items():
        cells = list(map(row_cells, rows))
        columns = [name for name in cells[0] if any(row[name] for row in cells)]
        lines += ["", f"{title(*group)}:", "", table_line(columns)]
        lines.append("|---|" + "---:|" * (len(columns) - 1))
        lines += [table_line(row[name] for name in columns) for row in cells]
    return "\n".join(lines)


def title(task: str, batch: int, precision: str) -> str:
    return f"{TITLES[task]}, batch of {batch}, {precision}"


def agreement_line(agreement: dict) -> str:
    """What `run.compare` found, in a sentence."""
    if "reason" in agreement:
        return f"Not compared with torch: {agreement['reason']}"
    return (
        f"Beside {agreement['library']}, of the same random weights: logits differ by "
        f"{agreement['logits']:.1e} of the largest, gradients of a step by up "
        f"to {agreement['gradients']:.1e} of their norm "
        f"({agreement['worst_gradient']})."
    )


def table_line(cells) -> str:
    return f"| {' | '.join(cells)} |"


def row_cells(numbers: dict) -> dict[str, str]:
    """The cells by heading, empty where there is no number."""

    def cell(name, text):
        return text(numbers[name]) if name in numbers else ""

    def gigabytes(size):
        return f"{size / 2**30:.2f} GB"

    return {
        "contender": numbers["contender"],
        "median": cell("median", in_seconds),
        "middle half": cell("quartiles", lambda both: in_seconds(*both)),
        "ratio": cell("ratio", "{:.2f}".format),
        "images/s": cell("images", "{:.1f}".format),
        "memory": cell("peak_bytes", gigabytes),
        "GPU memory": cell("device_peak_bytes", gigabytes),
        "first call": cell("first", in_seconds),
        "failed": numbers["failed"],
    }


def in_seconds(*seconds: float) -> str:
    """Times to three digits, in the unit that suits the longest."""
    unit, factor = ("s", 1) if max(seconds) >= 0.9995 else ("ms", 1000)
    numbers = (f"{factor * number:#.3g}".rstrip(".") for number in seconds)
    return f"{' to '.join(numbers)} {unit}"


def draw(report: dict, path: Path) -> None:
    """Draws the medians as bars, the floor as a dashed line, into a .png file.

    A bar longer than 2.5 times the median contender is cut off there.
    """
    from matplotlib.figure import Figure

    groups = panels(report)
    figure = Figure((10, 0.8 + 3.2 * len(groups)), layout="constrained")
    grid = figure.subplots(len(groups), squeeze=False).ravel()
    for axes, (group, rows) in zip(grid, groups.items(), strict=True):
        bars = [row for row in rows if "median" in row and row["kind"] != "floor"]
        bars.sort(key=lambda row: row["median"])
        # Of nothing where all failed.
        end = 2.5 * statistics.median([row["median"] for row in bars] or [1])
        for place, row in enumerate(bars):
            axes.barh(place, row["median"], color=COLOURS[row["kind"]])
            text = f" {in_seconds(row['median'])}"
            axes.text(min(row["median"], end), place, text, va="center")
        if rows[-1]["kind"] == "floor":
            axes.axvline(rows[-1]["median"], color="black", linestyle="--")
        axes.set_yticks(range(len(bars)), [row["contender"] for row in bars])
        axes.invert_yaxis()
        axes.set_xlim(0, end)
        axes.set_xlabel("seconds")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(title(*group), loc="left")
    figure.suptitle(
        f"{report['model']}, {report['size']} x {report['size']} pixels, "
        f"{report['machine']['processor']}"
    )
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("times", type=Path, metavar="FILE.json")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    options = parser.parse_args()
    report = json.loads(options.times.read_text())
    print(markdown(report))
    if options.plot:
        draw(report, options.plot)


if __name__ == "__main__":
    main()
