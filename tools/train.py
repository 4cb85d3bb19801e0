"""The published command lines: `python tools/train.py -c CONFIG.yml ...`, or the same after `torchrun ...`.

Translates them to `rtdetr.train` and `rtdetr.evaluate`; docs/training.md says what differs.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from rtdetr.cli.logs import log_to_stderr
from rtdetr.errors import ConfigError, RTDETRError, naming_the_missing_extra, one_line


def main(arguments: list[str] | None = None) -> int:
    """Train or evaluate as the arguments say; return the exit status."""
    options = _parser().parse_args(arguments)
    log_to_stderr()
    try:
        with naming_the_missing_extra():
            return _run(options)
    except RTDETRError as error:
        print(one_line(error), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(options: argparse.Namespace) -> int:
    from rtdetr.training.published import read_published
    from rtdetr.training.recipe import parse, parse_assignments

    if options.resume and options.tuning:
        raise ConfigError("expected --resume or --tuning, got both: the one goes on with a run, the other starts one")
    updates = {name: parse(name, value) for name, value in parse_assignments(options.update or []).items()}
    for name in ("resume", "tuning", "device", "seed", "output_dir"):
        if getattr(options, name) is not None:
            updates[name] = getattr(options, name)
    if options.resume:
        updates["tuning"] = None
    if options.use_amp is not None:
        updates["use_amp"] = options.use_amp
    published = read_published(options.config, updates=updates)
    if options.test_only:
        _evaluate(published)
        return 0
    settings = dict(published.settings)
    data = settings.pop("data", None)
    resume = _file(published.resume) if published.resume else None
    return _train(data, settings, resume)


def _train(data: Any, settings: dict[str, Any], resume: Path | None) -> int:
    import rtdetr
    from rtdetr.evaluation.report import percent
    from rtdetr.training.signals import exit_status

    result = rtdetr.train(data, resume=resume, config=settings)
    if int(os.environ.get("RANK", "0")) == 0:
        best = "" if result.best_ap is None else f", best AP {percent(result.best_ap)}: {result.best_weights}"
        print(f"{'finished' if result.finished else 'interrupted'}{best}; {result.last_weights}")
    return 0 if result.signal is None else exit_status(result.signal)


def _evaluate(published: Any) -> None:
    """Evaluate the averaged weights of a checkpoint on the validation data, in float32, and write eval.json."""
    import rtdetr
    from rtdetr.training.published import load_published

    settings = published.settings
    source = published.resume or settings.get("weights")
    if source is None:
        raise ConfigError("--test-only: expected the checkpoint to evaluate: -r FILE")
    if "val_data" not in settings:
        raise ConfigError("--test-only: expected a val_dataloader with a dataset in the file")
    if int(os.environ.get("RANK", "0")):  # one process evaluates
        return
    report = rtdetr.evaluate(
        load_published(published, source).model,
        settings["val_data"],
        images=settings.get("val_images"),
        device=settings.get("device", "auto"),
        precision="float32",
    )
    print(report.table())
    folder = Path(settings.get("output_dir", "."))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "eval.json").write_text(json.dumps(report.metrics._asdict(), indent=1) + "\n", encoding="utf-8")


def _file(source: str) -> Path:
    from rtdetr.weights import download

    return download(source) if "://" in source else Path(source)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train or evaluate as a published YAML file says.")
    add = parser.add_argument
    add("-c", "--config", type=Path, required=True, help="YAML file of the published form")
    add("-r", "--resume", help="checkpoint to go on from, or to evaluate")
    add("-t", "--tuning", help="checkpoint to start a run from")
    add("-d", "--device", help="auto, cpu, cuda or cuda:1")
    add("--seed", type=int, help="of everything that is random")
    add("--use-amp", action="store_true", default=None, help="mixed precision, as use_amp: True in the file")
    add("--no-amp", dest="use_amp", action="store_false", help="float32, whatever the file says")
    add("--output-dir", help="folder for the results")
    add("--summary-dir", help="accepted; TensorBoard's files are in the output folder")
    add("--test-only", action="store_true", help="evaluate the weights of --resume, and stop")
    add("-u", "--update", nargs="+", action="extend", metavar="KEY=VALUE", help="values over those of the file")
    for name in ("--print-method", "--print-rank", "--local-rank", "--local_rank"):
        add(name, help="accepted, without effect")
    return parser


if __name__ == "__main__":
    sys.exit(main())
