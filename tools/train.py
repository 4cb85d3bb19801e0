"""Published command line: `python tools/train.py -c CONFIG.yml ...`, or `torchrun ... tools/train.py ...`.

It is translated to `rtdetr.train` and `rtdetr.evaluate`; docs/training.md lists the differences. Options of
`rtdetr train` are accepted too and override the file.
"""

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from rtdetr.cli.logs import log_to_stderr
from rtdetr.errors import ConfigError, RTDETRError, one_line, require_extra

_log = logging.getLogger("rtdetr.tools.train")


def main(arguments: list[str] | None = None) -> int:
    """Train or evaluate, and return the exit status."""
    options, others = _parser().parse_known_args(arguments)
    log_to_stderr()
    try:
        with require_extra():
            return _run(options, _given(others))
    except RTDETRError as error:
        print(one_line(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _given(arguments: list[str]) -> dict[str, Any]:
    """Parse options of `rtdetr train`: return settings of `rtdetr.train`, "data" and "dry_run".

    Raises:
        ConfigError: an option is unknown to `rtdetr train` too, or a value is not valid.
    """
    import typer

    from rtdetr.cli.main import UsageError, app
    from rtdetr.cli.train import settings_of

    command: Any = typer.main.get_command(app)
    try:
        values = command.get_command(None, "train").make_context("train", arguments).params
    except UsageError as error:
        reason = error.format_message().rstrip(".")
        raise ConfigError(f"{reason}. See tools/train.py --help and rtdetr train --help") from None
    if values["processes"] is not None:
        raise ConfigError(
            f"--processes: start them with torchrun --nproc_per_node {values['processes']} tools/train.py"
        )
    return {**settings_of(values), "data": list(values["data"] or ()) or None, "dry_run": values["dry_run"]}


def _run(options: argparse.Namespace, given: dict[str, Any]) -> int:
    from rtdetr.published import read_published
    from rtdetr.recipes.changes import parse, parse_assignments

    if options.resume and options.tuning:
        raise ConfigError("expected --resume or --tuning, got both: --resume continues a run, --tuning starts one")
    updates = {name: parse(name, value) for name, value in parse_assignments(options.update or [], option="-u").items()}
    for name in ("resume", "tuning", "device", "seed", "output_dir"):
        if getattr(options, name) is not None:
            updates[name] = getattr(options, name)
    if options.resume:
        updates["tuning"] = None
    if options.use_amp is not None:
        updates["use_amp"] = options.use_amp
    published = read_published(options.config, updates=updates)
    if options.test_only:
        _evaluate(published, given)
        return 0
    return _train(published, given)


def _train(published: Any, given: dict[str, Any]) -> int:
    import rtdetr
    from rtdetr.evaluation.report import percent
    from rtdetr.training.signals import exit_status

    resume = _file(published.resume) if published.resume else None
    result = rtdetr.train(resume=resume, config=published.settings, **given)
    best = "" if result.best_ap is None else f", best AP {percent(result.best_ap)}: {result.best_weights}"
    ended = f"{'finished' if result.finished else 'interrupted'}{best}; {result.last_weights}"
    if int(os.environ.get("RANK", "0")) == 0:
        print(result.plan if given["dry_run"] else ended)
    return 0 if result.signal is None else exit_status(result.signal)


def _evaluate(published: Any, given: dict[str, Any]) -> None:
    """Evaluate a checkpoint (its EMA weights if use_ema is True) in float32, and write eval.json."""
    import rtdetr
    from rtdetr.categories import Categories
    from rtdetr.data import open_dataset
    from rtdetr.runtimes.torch_detector import TorchDetector
    from rtdetr.weights import load_published

    settings = {**published.settings, **given}
    source = published.resume or settings.get("weights")
    if source is None:
        raise ConfigError("--test-only: no checkpoint to evaluate: pass one with -r FILE")
    if "val_data" not in settings:
        raise ConfigError("--test-only: the YAML file has no val_dataloader with a dataset")
    if int(os.environ.get("RANK", "0")):  # only the main process evaluates
        return
    average = settings["recipe"].ema_decay > 0
    found = load_published(published, source, average=average)
    if found.averaged not in (None, average):
        has, wanted = ("only", "use_ema: False") if found.averaged else ("no", "use_ema: True")
        _log.warning("%s has %s EMA weights, so %s has no effect", found.path, has, wanted)
    classes = found.categories if found.is_named else Categories.numbered(len(found.categories))
    detector = TorchDetector(
        found.model,
        classes,
        device=settings.get("device", "auto"),
        precision="float32",
        size_hw=published.network.eval_size_hw,
    )
    dataset = open_dataset(
        settings["val_data"],
        split="val",
        images=settings.get("val_images"),
        on_bad_box=settings.get("bad_boxes", "error"),
        on_bad_image=settings.get("bad_images", "error"),
    )
    report = rtdetr.evaluate(detector, dataset)
    print(report.table())
    folder = Path(settings.get("output_dir", "."))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "eval.json").write_text(json.dumps(report.metrics._asdict(), indent=1) + "\n", encoding="utf-8")


def _file(source: str) -> Path:
    from rtdetr.weights import download

    return download(source) if "://" in source else Path(source)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train or evaluate with a published YAML file.",
        epilog="Options of 'rtdetr train' are accepted too and override the file.",
    )
    add = parser.add_argument
    add("-c", "--config", type=Path, required=True, help="published YAML file")
    add("-r", "--resume", help="checkpoint to resume, or to evaluate")
    add("-t", "--tuning", help="checkpoint to fine-tune")
    add("-d", "--device", help="auto, cpu, cuda or cuda:1")
    add("--seed", type=int, help="random seed")
    add("--use-amp", action="store_true", default=None, help="mixed precision, like use_amp: True in the file")
    add("--no-amp", dest="use_amp", action="store_false", help="float32, regardless of the file")
    add("--output-dir", help="folder for the results")
    add("--summary-dir", help="accepted without effect; TensorBoard files are in the output folder")
    add("--test-only", action="store_true", help="only evaluate the weights of --resume")
    add("-u", "--update", nargs="+", action="extend", metavar="KEY=VALUE", help="override values of the file")
    for name in ("--print-method", "--print-rank", "--local-rank", "--local_rank"):
        add(name, help="accepted without effect")
    return parser


if __name__ == "__main__":
    sys.exit(main())
