"""Published command line: `python tools/export_onnx.py -c CONFIG.yml -r CHECKPOINT.pth -o model.onnx --check`.

It is translated to `rtdetr.export`. `rtdetr export CHECKPOINT` does the same without a configuration file and has more
options.
"""

import argparse
import sys
from pathlib import Path

import typer

from rtdetr.cli.logs import log_to_stderr
from rtdetr.errors import ConfigError, RTDETRError, require_extra


def main(arguments: list[str] | None = None) -> int:
    """Export the model and return the exit status."""
    options = _parser().parse_args(arguments)
    log_to_stderr()
    try:
        with require_extra():
            return _run(options)
    except RTDETRError as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace) -> int:
    from rtdetr.cli.export import write_and_report
    from rtdetr.export import ExportOptions, Source
    from rtdetr.export.job import checkpoint_sha256
    from rtdetr.published import read_published
    from rtdetr.recipes.changes import parse, parse_assignments
    from rtdetr.weights import load_published

    updates = {name: parse(name, value) for name, value in parse_assignments(options.update or [], option="-u").items()}
    if options.resume is not None:
        updates["resume"] = options.resume
    published = read_published(options.config, updates=updates)
    if published.resume is None:
        raise ConfigError("no checkpoint to export: pass one with -r FILE")
    found = load_published(published, published.resume)
    source = Source(found.model, found.categories, found.thresholds, sha256=checkpoint_sha256(found.path))
    side = options.input_size
    settings = ExportOptions(dynamic_batch=True, size_hw=None if side is None else (side, side), opset=options.opset)
    try:
        write_and_report(
            source,
            options.output_file,
            settings,
            check=options.check,
            images=None,
            data=None,
            on_bad_image="error",
        )
    except typer.Exit as refused:
        return refused.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Export a model of a published YAML file to ONNX.")
    add = parser.add_argument
    add("-c", "--config", type=Path, required=True, help="published YAML file")
    add("-r", "--resume", help="checkpoint to export")
    add("-o", "--output_file", type=Path, default=Path("model.onnx"), help="file to write")
    add("-s", "--input_size", type=int, help="input size in pixels; default: eval_spatial_size of the file")
    add("--opset", type=int, default=18, help="ONNX opset version")
    add(
        "--check",
        action="store_true",
        help="compare detections with PyTorch and print the result",
    )
    add("--simplify", action="store_true", help="accepted without effect; the graph is already simple")
    add("-u", "--update", nargs="+", action="extend", metavar="KEY=VALUE", help="override values of the file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
