"""The results of `learning.py`, which are kept in a file: tables and a plot.

    python benchmarks/learning_results.py FILE [--setups "scratch, 500 steps"] [--recipes scratch,deim] [--plot PLOT]

This prints the tables of FILE and draws a plot, by default next to FILE with the suffix .png. Each line of the file is
a run as JSON. Its evaluations are [step, seconds, AP, AP50, AP of small objects].
"""

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peers import print_table

from rtdetr.comparison import Comparison, Evaluation
from rtdetr.errors import TrainingError
from rtdetr.files import write_text
from rtdetr.plot_style import SERIES, new_figure, save_figure, style_axes

LEGEND_ROW = 0.25  # inches
HATCHES = (None, "///", "...", "xxx")  # each with all colors

Results = dict[str, dict[str, Comparison]]  # by setup (start and length of the runs), and by family


def read(path: Path) -> Results:
    """Read a file of results; none if it does not exist."""
    results: Results = {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        one = json.loads(line)
        run = [Evaluation(*values) for values in one["evaluations"]]
        families = results.setdefault(one["setup"], {})
        found = families.setdefault(one["family"], Comparison(run[-1].step, one["batch_size"], {}))
        found.runs.setdefault(one["recipe"], []).append(run)
    return results


def add(path: Path, setup: str, family: str, found: Comparison) -> None:
    """Add a comparison to a file; a run replaces the former one of the same recipe and seed."""
    results = read(path)
    families = results.setdefault(setup, {})
    known = families.get(family, found)
    merged = {name: [*runs, *known.runs.get(name, [])[len(runs) :]] for name, runs in found.runs.items()}
    families[family] = found._replace(runs={**known.runs, **merged})
    lines = [
        json.dumps(
            {
                "setup": setup,
                "family": family,
                "recipe": recipe,
                "seed": seed,
                "batch_size": one.batch_size,
                "evaluations": [[round(value, 5) for value in evaluation] for evaluation in run],
            }
        )
        for setup, families in results.items()
        for family, one in families.items()
        for recipe, runs in one.runs.items()
        for seed, run in enumerate(runs)
    ]
    write_text(path, "\n".join(lines) + "\n", error=TrainingError)


def split_recipes(text: str) -> list[str]:
    """Split names of recipes at commas, but not at those inside [...]."""
    return [name.strip() for name in re.split(r",(?![^[]*\])", text)]


def chosen(families: Mapping[str, Comparison], recipes: list[str] | None) -> dict[str, Comparison]:
    """Return the comparisons with these recipes only, in this order, without families that have none of them."""
    found = {
        family: one._replace(runs={name: one.runs[name] for name in recipes or one.runs if name in one.runs})
        for family, one in families.items()
    }
    return {family: one for family, one in found.items() if one.runs}


def show(families: Mapping[str, Comparison]) -> None:
    """Print the verdict of each family, and a table with one row per family and recipe."""
    rows = []
    for family, found in families.items():
        for name in found.runs:
            small = found.final(name, "ap_small")
            numbers = (found.final(name), found.final(name, "ap50"), "-" if small.value < 0 else small)
            ends = (str(found.at_equal_time(name)), f"{found.seconds(name):.0f}", str(len(found.runs[name])))
            rows.append((family, name, *map(str, numbers), *ends))
        if len(found.runs) > 1:
            print(f"{family}: {found.verdict()}")
    print()
    print_table(("family", "recipe", "AP", "AP50", "AP small", "AP at equal time", "s per run", "seeds"), rows)


def draw(results: Results, path: Path) -> None:
    """Plot the AP of each family: a bar per recipe, and a point per run."""
    longest = max(len(families) for families in results.values())
    rows = [3.2 + LEGEND_ROW * len(_names(families)) for families in results.values()]
    figure = new_figure(max(2 + 1.2 * longest, 5), sum(rows))
    places = figure.subplots(len(results), squeeze=False, height_ratios=rows)[:, 0]
    for axes, (setup, families) in zip(places, results.items(), strict=True):
        _draw_setup(axes, setup, families)
    save_figure(figure, path, error=TrainingError)


def _draw_setup(axes: Any, setup: str, families: Mapping[str, Comparison]) -> None:
    names = _names(families)
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        bars = [(place, one) for place, one in enumerate(families.values()) if name in one.runs]
        xs = [place + (index - (len(names) - 1) / 2) * width for place, _ in bars]
        heights = [100 * one.final(name).value for _, one in bars]
        hatch = HATCHES[index // len(SERIES) % len(HATCHES)]
        color = SERIES[index % len(SERIES)]
        axes.bar(xs, heights, width * 0.9, color=color, edgecolor="white", linewidth=0, hatch=hatch, label=name)
        for x, (_, one) in zip(xs, bars, strict=True):
            aps = [100 * run[-1].ap for run in one.runs[name]]
            axes.plot([x] * len(aps), aps, "o", color="black", markersize=3, alpha=0.6)
    axes.set_xticks(range(len(families)), list(families))
    axes.set_ylabel("validation AP (%)")
    style_axes(axes, title=f"{setup}; points are single runs", grid="y")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, -0.08))


def _names(families: Mapping[str, Comparison]) -> list[str]:
    return list(dict.fromkeys(name for one in families.values() for name in one.runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--setups", nargs="+", help="show only these")
    parser.add_argument("--recipes", type=split_recipes, help="show only these")
    parser.add_argument("--plot", type=Path, help="file for the plot")
    options = parser.parse_args()
    stored = read(options.file)
    known = {recipe for families in stored.values() for one in families.values() for recipe in one.runs}
    if unknown := [name for name in options.recipes or () if name not in known]:
        parser.error(f"{options.file} has no recipe {', '.join(unknown)}. It has: {', '.join(sorted(known)) or 'none'}")
    selected = {name: chosen(stored[name], options.recipes) for name in stored if name in (options.setups or stored)}
    results = {name: found for name, found in selected.items() if found}
    if not results:
        parser.error(f"{options.file} has no such results. It has: {'; '.join(stored) or 'none'}")
    for setup, families in results.items():
        print(f"{setup}\n")
        show(families)
    draw(results, options.plot or options.file.with_suffix(".png"))


if __name__ == "__main__":
    main()
