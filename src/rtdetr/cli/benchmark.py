"""`rtdetr benchmark`: compare the speed of models and exported files on this machine."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtdetr.cli.arguments import Classes, JsonFile, MaxPixels, ModelFile, Precision, Recursive, Size, Tuned, parse_size
from rtdetr.cli.output import check_targets, echo, write_json
from rtdetr.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from rtdetr.benchmark import Throughput
    from rtdetr.images import ImageSource
    from rtdetr.runtimes.base import BaseDetector

_log = logging.getLogger(__name__)


def benchmark(
    model: Annotated[list[str], typer.Argument(help="Model names, weight files and exported files to compare.")],
    config: ModelFile = None,
    classes: Classes = None,
    images: Annotated[
        list[str] | None, typer.Option(help="Image files, folders or globs. Default: a built-in 1280x960 photo.")
    ] = None,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Images per batch. Repeatable. Default: 1; for --throughput 1, 2, 4 and 8."),
    ] = None,
    size: Size = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1; with OpenVINO also gpu and npu.")] = "auto",
    precision: Precision = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of the network. Default: one per core.")
    ] = None,
    tuned: Tuned = False,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Timed runs per model. Default: 30; for --throughput 5.")
    ] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Untimed warm-up runs per model.")] = 3,
    memory: Annotated[bool, typer.Option(help="Measure peak memory, in a separate process per model.")] = True,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also print time per stage and per type of operator, and the floor.")
    ] = False,
    throughput: Annotated[
        bool,
        typer.Option(
            "--throughput", help="Also search for the streams, threads and batch size with the most images/s."
        ),
    ] = False,
    save_tuned: Annotated[
        bool, typer.Option("--save-tuned", help="Store the settings that --throughput finds beside the model file.")
    ] = False,
    recursive: Recursive = False,
    max_pixels: MaxPixels = None,
    json_file: JsonFile = None,
    chart: Annotated[Path | None, typer.Option(help="File for a bar chart: .png, .svg or .pdf.")] = None,
) -> None:
    """Compare the speed of models and exported files.

    Each round runs every model once. Prints the median time per batch of decoding, preprocessing, network and
    postprocessing, the throughput in images/s, and the peak memory of a process that runs the model. The floor of
    --profile is the time of the network's convolutions and matrix products when each runs alone in the same engine.
    The streams of --throughput run batches of a list at the same time, on CPUs, and share the cores or --threads.
    """
    from rtdetr.benchmark import (
        chart_kind,
        check_has_streams,
        engine_of,
        environment,
        measure,
        profile_table,
        save_best,
        save_chart,
        table,
        throughput_table,
        to_json,
    )
    from rtdetr.benchmark import profile as profile_network
    from rtdetr.benchmark.measure import peak_memory, sample_photo
    from rtdetr.files import with_home
    from rtdetr.images import read_image
    from rtdetr.images.files import find_images
    from rtdetr.runtimes.tuned_file import tuned_path

    if chart:
        chart_kind(chart)  # fail early
    if save_tuned and not throughput:
        raise ConfigError("--save-tuned stores what --throughput finds: add --throughput")
    if tuned and throughput:
        raise ConfigError("--throughput measures all settings: omit --tuned")
    check_targets(json_file, chart, *([tuned_path(with_home(name)) for name in model] if save_tuned else []))
    batch_sizes = batch_size or [1]
    options: dict[str, Any] = {"device": device, "precision": precision, **({"tuned": True} if tuned else {})}
    if threads is not None:
        options["num_threads"] = threads
    names = list(dict.fromkeys(model))
    paths = find_images(images, recursive=recursive) if images else []
    loaded = {name: _load(name, options, config, classes) for name in names}
    detectors = {name: detector for name, (detector, _) in loaded.items()}
    for name, detector in detectors.items() if profile else ():
        engine_of(name, detector)  # fail early
    for name, detector in detectors.items() if throughput else ():
        check_has_streams(name, detector)
    channels = sorted({detector.in_channels for detector in detectors.values()})
    if len(channels) > 1 and not {1, 3}.issuperset(channels):
        raise ConfigError(f"the models need images of different numbers of channels {channels}: run them apart")
    for path in paths:
        read_image(path, num_channels=channels[-1])  # raises an error that names an unreadable file
    # read files into memory to exclude the disk; NumPy files are opened by name
    photos = [path if path.suffix.lower() == ".npy" else path.read_bytes() for path in paths]
    photos = photos or [sample_photo(channels[-1])]
    most = max(batch_sizes)
    used = {name: peak_memory(name, options=loaded[name][1], batch_size=most) if memory else None for name in names}
    size_hw = parse_size(size) if size else None
    found = measure(
        detectors, photos, batch_sizes=batch_sizes, size_hw=size_hw, rounds=rounds or 30, warmup=warmup, memory_mb=used
    )
    where = ", ".join(f"{key} {value}" for key, value in environment().items())
    echo(f"{table(found)}\n{where}", err=json_file == "-")
    if chart:
        save_chart(found, chart)
    profiles, searches = [], []
    try:
        for name, detector in detectors.items() if profile else ():
            profiles.append(profile_network(name, detector, photos[0], size_hw=size_hw, rounds=rounds or 30))
            echo(f"\n{profile_table(profiles[-1])}", err=json_file == "-")
        for name, detector in detectors.items() if throughput else ():
            searches.append(
                _search(
                    name,
                    detector,
                    loaded[name][1],
                    photos,
                    batch_sizes=batch_size,
                    cores=threads,
                    rounds=rounds,
                    size_hw=size_hw,
                )
            )
            echo(f"\n{throughput_table(searches[-1])}", err=json_file == "-")
            if save_tuned:
                _log.info("wrote %s; use it with --tuned", save_best(with_home(name), searches[-1]))
    finally:  # the measurements are kept if a profile or search fails
        if json_file:
            write_json(to_json(found, profiles, searches), json_file)


def _search(
    name: str,
    detector: "BaseDetector",
    options: dict[str, Any],
    photos: "Sequence[ImageSource]",
    *,
    batch_sizes: list[int] | None,
    cores: int | None,
    size_hw: tuple[int, int] | None,
    rounds: int | None,
) -> "Throughput":
    """Search for the settings of a model with the highest throughput; None: the defaults."""
    from rtdetr.benchmark import measure_throughput
    from rtdetr.benchmark.throughput import BATCH_SIZES
    from rtdetr.runtimes import load

    options = {key: value for key, value in options.items() if key != "num_threads"}
    return measure_throughput(
        name,
        detector,
        photos,
        open_with=lambda streams: load(name, **{**options, "tuned": streams}),
        batch_sizes=batch_sizes or BATCH_SIZES,
        cores=cores,
        size_hw=size_hw,
        rounds=rounds or 5,
    )


def _load(
    model: str, options: dict[str, Any], config: str | None, classes: str | None
) -> tuple["BaseDetector", dict[str, Any]]:
    """Load a model, with --config and --classes if it needs them.

    Returns:
        The detector and the options that it was loaded with.
    """
    from rtdetr.class_lists import class_list
    from rtdetr.exported_files import exported_format
    from rtdetr.runtimes import load

    if config is not None and not exported_format(model):
        options = {**options, "model": config}
    if classes is not None:
        class_list(classes)  # report mistakes in it early
    try:
        return load(model, **options), options
    except WeightsError:  # the file may have no class names
        if classes is None:
            raise
    options = {**options, "categories": classes}
    return load(model, **options), options
