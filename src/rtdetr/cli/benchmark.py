"""`rtdetr benchmark`: compare the speed of models and exported files on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtdetr.cli.arguments import Classes, JsonFile, MaxPixels, ModelFile, Precision, Recursive, Size, parse_size
from rtdetr.cli.output import check_targets, echo, write_json
from rtdetr.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from rtdetr.runtimes.base import BaseDetector


def benchmark(
    model: Annotated[list[str], typer.Argument(help="Model names, weight files and exported files to compare.")],
    config: ModelFile = None,
    classes: Classes = None,
    images: Annotated[
        list[str] | None, typer.Option(help="Image files, folders or globs. Default: a built-in 1280x960 photo.")
    ] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, help="Images per batch. Repeatable. Default: 1.")
    ] = None,
    size: Size = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1; with OpenVINO also gpu and npu.")] = "auto",
    precision: Precision = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of the network. Default: one per core.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs per model.")] = 30,
    warmup: Annotated[int, typer.Option(min=0, help="Untimed warm-up runs per model.")] = 3,
    memory: Annotated[bool, typer.Option(help="Measure peak memory, in a separate process per model.")] = True,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also print time per stage and per type of operator, and the floor.")
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
    """
    from rtdetr.benchmark import chart_kind, engine_of, environment, measure, profile_table, save_chart, table, to_json
    from rtdetr.benchmark import profile as profile_network
    from rtdetr.benchmark.measure import peak_memory, sample_photo
    from rtdetr.images import read_image
    from rtdetr.images.files import find_images

    if chart:
        chart_kind(chart)  # fail early
    check_targets(json_file, chart)
    batch_sizes = batch_size or [1]
    options: dict[str, Any] = {"device": device, "precision": precision}
    if threads is not None:
        options["num_threads"] = threads
    names = list(dict.fromkeys(model))
    paths = find_images(images, recursive=recursive) if images else []
    loaded = {name: _load(name, options, config, classes) for name in names}
    detectors = {name: detector for name, (detector, _) in loaded.items()}
    for name, detector in detectors.items() if profile else ():
        engine_of(name, detector)  # fail early
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
        detectors, photos, batch_sizes=batch_sizes, size_hw=size_hw, rounds=rounds, warmup=warmup, memory_mb=used
    )
    where = ", ".join(f"{key} {value}" for key, value in environment().items())
    echo(f"{table(found)}\n{where}", err=json_file == "-")
    if chart:
        save_chart(found, chart)
    profiles = []
    try:
        for name, detector in detectors.items() if profile else ():
            profiles.append(profile_network(name, detector, photos[0], size_hw=size_hw, rounds=rounds))
            echo(f"\n{profile_table(profiles[-1])}", err=json_file == "-")
    finally:  # the measurements are kept if a profile fails
        if json_file:
            write_json(to_json(found, profiles), json_file)


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
