"""Label statistics of a run's data: objects by class and size, as numbers and as a plot."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rtdetr.config import SizeHW
from rtdetr.data import DetectionDataset
from rtdetr.errors import TrainingError
from rtdetr.files import write_text
from rtdetr.fonts.figure import FigureNames, figure_names
from rtdetr.plot_style import BLUE, GRAY, SERIES, SMALL_TEXT, new_figure, save_figure, style_axes
from rtdetr.wording import counted

STATISTICS_FILE, STATISTICS_PLOT = "label_statistics.json", "label_statistics.png"
SMALL, LARGE = 32.0, 96.0  # pixels; square roots of the area limits of COCO's small and large objects
BARS = 30  # classes up to which each has its own bar
QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)


def label_statistics(dataset: DetectionDataset, *, size_hw: SizeHW) -> dict[str, Any]:
    """Compute label statistics as plain values for JSON. Crowd regions are counted but otherwise ignored.

    Args:
        dataset: images with boxes.
        size_hw: height and width of the network input; box sizes are measured at that size.

    Returns:
        "images", "empty_images", "objects", "crowd_regions"; "classes": name, objects and images per class, by label;
        "objects_an_image": mean, median, max, and a histogram of objects per image; "box_size_px": quantiles of the
        square root of the box area at the network input size; "share_by_size": fractions of COCO's small, medium and
        large objects, in pixels of the original image.
    """
    columns, names = dataset.annotations, dataset.categories.names
    kept = ~columns.iscrowd
    image_of_box = np.repeat(np.arange(len(dataset)), np.diff(columns.starts))[kept]
    labels, areas = columns.labels[kept], columns.areas[kept]
    per_image = np.bincount(image_of_box, minlength=len(dataset))
    per_class = np.bincount(labels, minlength=len(names))
    pairs = np.unique(image_of_box.astype(np.int64) * len(names) + labels)
    images_of_class = np.bincount(pairs % len(names), minlength=len(names))
    sizes = network_box_sizes(dataset, size_hw=size_hw).prod(axis=1) ** 0.5
    bins = np.digitize(areas, [SMALL**2, LARGE**2])
    return {
        "images": len(dataset),
        "empty_images": int((per_image == 0).sum()),
        "objects": len(labels),
        "crowd_regions": int(columns.iscrowd.sum()),
        "classes": [
            {"name": name, "objects": int(objects), "images": int(images)}
            for name, objects, images in zip(names, per_class, images_of_class, strict=True)
        ],
        "objects_an_image": {
            "mean": float(per_image.mean()),
            "median": float(np.median(per_image)),
            "max": int(per_image.max()),
            "histogram": np.bincount(per_image).tolist(),
        },
        "network_size_hw": list(size_hw),
        "box_size_px": {f"{q:.0%}": round(float(np.quantile(sizes, q)), 1) for q in QUANTILES} if len(sizes) else {},
        "share_by_size": {
            name: round(float((bins == index).mean()), 4) if len(bins) else 0.0
            for index, name in enumerate(("small", "medium", "large"))
        },
    }


def network_box_sizes(dataset: DetectionDataset, *, size_hw: SizeHW) -> np.ndarray:
    """Return width and height of each box in the resized image, without crowd regions: float64 (n, 2), pixels."""
    columns = dataset.annotations
    sizes_wh = np.repeat(columns.sizes_wh, np.diff(columns.starts), axis=0)
    scaled = columns.boxes_xywh[:, 2:] / sizes_wh * np.array(size_hw[::-1])
    return scaled[~columns.iscrowd]


def write_statistics(
    folder: Path, datasets: Mapping[str, DetectionDataset], *, size_hw: SizeHW, font: str | None = None
) -> None:
    """Write label_statistics.json and the plot of the same name.

    Args:
        folder: folder of the run.
        datasets: datasets by split, such as {"train": ..., "val": ...}, all with the same labels.
        size_hw: height and width of the network input.
        font: font file for class names; missing letters come from installed fonts.

    Raises:
        TrainingError: a file cannot be written.
        InputError: the font cannot be read.
    """
    found = {split: label_statistics(dataset, size_hw=size_hw) for split, dataset in datasets.items()}
    write_text(folder / STATISTICS_FILE, json.dumps(found, indent=1) + "\n", error=TrainingError)
    sizes = {split: network_box_sizes(dataset, size_hw=size_hw) for split, dataset in datasets.items()}
    names = figure_names(next(iter(datasets.values())).categories.names, font=font)
    figure = _draw(found, sizes, size_hw, names)
    save_figure(figure, folder / STATISTICS_PLOT, error=TrainingError)


def _draw(
    found: Mapping[str, dict[str, Any]], sizes: Mapping[str, np.ndarray], size_hw: SizeHW, names: FigureNames
) -> Any:
    num_classes = len(next(iter(found.values()))["classes"])
    height = 7.0 if num_classes > BARS else max(7.0, 1.2 + 0.3 * num_classes)
    figure: Any = new_figure(12, height)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1))
    classes = left.subplots()
    (by_size, by_image) = right.subplots(2, 1)
    (_draw_ranking if num_classes > BARS else _draw_bars)(classes, found, names)
    _draw_sizes(by_size, sizes, size_hw)
    _draw_crowding(by_image, found)
    return figure


def _draw_bars(axes: Any, found: Mapping[str, dict[str, Any]], names: FigureNames) -> None:
    """Draw a bar per class, most frequent first; splits are drawn as percentages to make them comparable."""
    first = next(iter(found.values()))
    order = sorted(range(len(first["classes"])), key=lambda label: first["classes"][label]["objects"])
    places, thickness = np.arange(len(order)), 0.8 / len(found)
    for number, ((split, values), color) in enumerate(zip(found.items(), SERIES, strict=False)):
        counts = np.array([values["classes"][label]["objects"] for label in order])
        shares = 100 * counts / max(counts.sum(), 1)
        shift = 0.4 - thickness * (number + 0.5)
        bars = axes.barh(places + shift, shares, thickness * 0.92, color=color, label=_described(split, values))
        axes.bar_label(bars, [f"{count:,}" for count in counts], padding=3, fontsize=SMALL_TEXT, color=GRAY)
    axes.set_yticks(places, [names.names[label] for label in order], fontfamily=names.families)
    axes.margins(x=0.12)
    axes.set_ylim(min(-0.5, len(order) - 5.5), len(order) - 0.5)  # a few bars do not become thicker
    style_axes(axes, title="Objects per class", grid="x")
    axes.set_xlabel("% of all objects")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)


def _draw_ranking(axes: Any, found: Mapping[str, dict[str, Any]], names: FigureNames) -> None:
    """Draw many classes as one curve, most frequent first, with the names of some."""
    first = next(iter(found.values()))["classes"]
    order = sorted(range(len(first)), key=lambda label: -first[label]["objects"])
    for (split, values), color in zip(found.items(), SERIES, strict=False):
        counts = [values["classes"][label]["objects"] for label in order]
        axes.step(np.arange(1, len(order) + 1), counts, where="mid", color=color, label=_described(split, values))
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    lines = [f"{first[label]['objects']:,}  {names.names[label]}" for label in order]
    text = "most\n" + "\n".join(lines[:8]) + "\n\nfewest\n" + "\n".join(lines[-8:])
    style = {"fontsize": SMALL_TEXT, "fontfamily": names.families, "color": GRAY}
    axes.text(0.97, 0.97, text, transform=axes.transAxes, ha="right", va="top", zorder=5, **style)
    style_axes(axes, title=f"Objects per class, {counted(len(order), 'class')}", grid="y")
    axes.set(xlabel="classes, most frequent first", ylabel="objects")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)


def _draw_sizes(axes: Any, sizes: Mapping[str, np.ndarray], size_hw: SizeHW) -> None:
    sides = {split: np.sqrt(values.prod(axis=1)) for split, values in sizes.items()}
    low = min((float(values.min()) for values in sides.values() if len(values)), default=1.0)
    edges = np.geomspace(min(max(low, 0.5), 16.0), float(max(size_hw)), 29)
    for (split, values), color in zip(sides.items(), SERIES, strict=False):
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)
        axes.stairs(100 * counts / max(len(values), 1), edges, fill=color == BLUE, color=color, alpha=0.8, label=split)
    for limit in (SMALL, LARGE):
        axes.axvline(limit, color=GRAY, linewidth=1, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_xlim(edges[0], edges[-1])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    height, width = size_hw
    style_axes(axes, title="Box size (dotted: 32 and 96 pixels)", grid="y")
    axes.set(
        xlabel=f"square root of the area in pixels, images at {width}x{height}",
        ylabel="% of all boxes",
    )


def _draw_crowding(axes: Any, found: Mapping[str, dict[str, Any]]) -> None:
    from matplotlib.ticker import MaxNLocator

    for (_, values), color in zip(found.items(), SERIES, strict=False):
        counts = np.array(values["objects_an_image"]["histogram"])
        width = max(1, -(-len(counts) // 40))  # bin width for at most 40 bins
        counts = np.pad(counts, (0, -len(counts) % width)).reshape(-1, width).sum(axis=1)
        edges = np.arange(len(counts) + 1) * width - 0.5
        axes.stairs(100 * counts / counts.sum(), edges, fill=color == BLUE, color=color, alpha=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    style_axes(axes, title="Objects per image", grid="y")
    axes.set(xlabel="objects", ylabel="% of all images")


def _described(split: str, values: Mapping[str, Any]) -> str:
    objects, images = counted(values["objects"], "object"), counted(values["images"], "image")
    return f"{split}: {objects} in {images}, {values['empty_images']:,} empty"
