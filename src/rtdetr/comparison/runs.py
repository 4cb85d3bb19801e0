"""`compare` trains each recipe with each seed, in separate processes, and collects the evaluations.

Each run is a folder OUTPUT/RECIPE/seed-N. A run that is finished is not repeated, and an interrupted one is resumed, so
that seeds and recipes can be added later.
"""

import contextlib
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rtdetr.comparison.results import Comparison, Evaluation
from rtdetr.config import TrainConfig
from rtdetr.errors import ConfigError, RTDETRError, TrainingError, one_line
from rtdetr.files import with_home, write_text
from rtdetr.machine import num_cores
from rtdetr.recipes import resolve
from rtdetr.recipes.named_recipes import fitting_batch
from rtdetr.recipes.resolve import DataSummary
from rtdetr.reports.metrics import read_records
from rtdetr.runtimes.options import whole_number
from rtdetr.text_files import read_text
from rtdetr.wording import counted, listed

_log = logging.getLogger(__name__)
SETTINGS_FILE = "comparison.json"
LOG_FILE = "log.txt"  # what a run prints
_EVALUATIONS = 6
_TOLERANCE = 0.05  # relative difference in steps that is not reported
Children = list["subprocess.Popen[bytes]"]
Recipes = Sequence[str] | Mapping[str, Mapping[str, Any]]


def compare(
    data: str | os.PathLike[str],
    recipes: Recipes,
    *,
    steps: int,
    output_dir: str | os.PathLike[str],
    seeds: int = 3,
    jobs: int = 1,
    **settings: Any,
) -> Comparison:
    """Train with several recipes under the same budget, and compare their validation AP.

    All runs have the same number of steps of the same batch size, so they see equally many images; as far as whole
    epochs allow, and differences of more than 5 % are reported. Each recipe is adapted to this length as in
    `rtdetr.train`. Runs of six epochs or more are evaluated at least six times.

    Args:
        data: folder or annotation file of a dataset with a validation split, or with `val_data`.
        recipes: names of recipes and of configuration files (.yml, .yaml, .json), or settings of `rtdetr.train` by a
            name of your choice, such as {"slow": {"recipe": "finetune", "lr": 1e-5}}.
        steps: length of each run; rounded to whole epochs, which are longer for a recipe with balancing or unlabelled
            images.
        output_dir: folder for the runs. If it has runs of a comparison with the same settings, they are resumed, or
            read if they are finished.
        seeds: number of runs per recipe, with the random seeds 0, 1, ...
        jobs: number of runs at the same time, each with its share of the CPU cores.
        settings: more settings of `rtdetr.train` (`rtdetr.recipes.TrainSettings`), for all recipes. Without a batch
            size it is 16, or down to 4 so that an epoch has at least 8 steps.

    Raises:
        ConfigError: fewer than two recipes, an invalid setting, fewer steps than an epoch has, or `output_dir` has runs
            with other settings.
        DatasetError: the dataset is missing or malformed, or has no validation images.
        TrainingError: a run failed.
    """
    contenders = _contenders(recipes)
    steps = whole_number(steps, "steps", error=ConfigError)
    seeds = whole_number(seeds, "seeds", error=ConfigError)
    jobs = whole_number(jobs, "jobs", error=ConfigError)
    folder = with_home(output_dir)
    first = resolve(str(data), _settings(settings, next(iter(contenders.values())), folder))
    images = len(first.datasets["train"])
    batch_size = settings.get("batch_size") or fitting_batch(images)
    common: dict[str, Any] = {**settings, "batch_size": batch_size, "rehearsal": False}
    common |= _budget(_length(images, batch_size, steps=steps)[0])
    complete: dict[str, dict[str, Any]] = {}
    lengths: dict[str, int] = {}
    for name, one in contenders.items():  # finds mistakes in any of them before the first run
        found = resolve(str(data), {**_settings(common, one, folder), "seed": 0})
        summary = DataSummary.of(found.datasets, balance=found.config.balance)  # its epochs may have more images
        epochs, per_epoch = _length(summary.num_images, batch_size, steps=steps, of=name)
        budget = {**common, **_budget(epochs)}
        complete[name], lengths[name] = _settings(budget, one, folder), epochs * per_epoch
        _check_budget(name, resolve(str(data), {**complete[name], "seed": 0}).config, budget, folder)
    length = next(iter(lengths.values()))
    if any(abs(own - length) > _TOLERANCE * length for own in lengths.values()):
        _log.warning(
            "runs have whole epochs, so their steps differ (%s): use more steps (--steps)",
            listed([f"{name} {own}" for name, own in lengths.items()]),
        )
    _note_settings(folder, str(data), common, contenders)
    runs = {(name, seed): folder / name / f"seed-{seed}" for name in contenders for seed in range(seeds)}
    waiting = {key: run for key, run in runs.items() if _epochs_done(run) < complete[key[0]]["epochs"]}
    _log.info(
        "%s of %s each; %d of %s to train",
        counted(len(runs), "run"),
        counted(length, "step"),
        len(waiting),
        counted(len(runs), "run"),
    )
    _train_all(str(data), waiting, complete, jobs=jobs)
    evaluations = {name: [_evaluations(runs[name, seed]) for seed in range(seeds)] for name in contenders}
    return Comparison(length, batch_size, evaluations)


def _length(images: int, batch_size: int, *, steps: int, of: str = "this dataset") -> tuple[int, int]:
    """Number of epochs that have about `steps` steps, and the steps of an epoch; `of` says in an error whose it is.

    Raises:
        ConfigError: an epoch has more steps.
    """
    per_epoch = max(images // batch_size, 1)
    if steps < per_epoch:
        raise ConfigError(
            f"steps (--steps): {steps} is too short to compare: an epoch of {of} has "
            f"{counted(per_epoch, 'step')} of {counted(batch_size, 'image')}. Use {per_epoch} or more"
        )
    return round(steps / per_epoch), per_epoch


def _budget(epochs: int) -> dict[str, int]:
    return {"epochs": epochs, "evaluate_every": max(epochs // _EVALUATIONS, 1)}


def _contenders(recipes: Recipes) -> dict[str, dict[str, Any]]:
    """Settings of `rtdetr.train` by the name of the recipe, which is also the name of its folder."""
    if isinstance(recipes, Mapping):
        found = {name: dict(settings) for name, settings in recipes.items()}
    else:
        files = {name: Path(name) for name in recipes}
        found = {
            (path.stem if path.suffix in (".yml", ".yaml", ".json") else name): (
                {"config": name} if path.suffix in (".yml", ".yaml", ".json") else {"recipe": name}
            )
            for name, path in files.items()
        }
        if len(found) < len(recipes):
            raise ConfigError(f"recipes (--recipes): each must have its own name, got {listed(list(recipes))}")
    if len(found) < 2:
        raise ConfigError(f"recipes (--recipes): expected at least two to compare, got {listed(list(found)) or 'none'}")
    for name in found:
        if not name or Path(name).name != name:
            raise ConfigError(f"recipes: {name!r} cannot be the name of a folder. Use letters, digits, - and _")
    return found


def _settings(common: Mapping[str, Any], own: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Settings of one run: those of the recipe override the common ones."""
    changes = {**(common.get("set") or {}), **(own.get("set") or {})}
    return {**common, **own, "output_dir": str(folder), "set": changes}


def _check_budget(name: str, config: TrainConfig, common: Mapping[str, Any], folder: Path) -> None:
    """Refuse a recipe with settings that must be the same, or are set for each run."""
    fixed = {
        "seed": 0,
        "output_dir": str(folder),
        **{key: common[key] for key in ("epochs", "batch_size", "evaluate_every")},
    }
    for key, value in fixed.items():
        found = getattr(config.recipe if key in ("epochs", "batch_size") else config, key)
        if found != value:
            raise ConfigError(f"{name} sets {key} to {found}, but a comparison sets it for all runs: remove it")
    evaluations = -(-config.recipe.epochs // config.evaluate_every)
    if config.early_stopping is not None and config.early_stopping < evaluations:
        raise ConfigError(
            f"{name} sets early_stopping to {config.early_stopping}, which may end its runs early: remove it"
        )


def _note_settings(folder: Path, data: str, common: Mapping[str, Any], contenders: Mapping[str, Any]) -> None:
    """Store what is compared, and refuse a folder with runs of other settings."""
    path = folder / SETTINGS_FILE
    current = json.loads(json.dumps({"data": data, "settings": common, "recipes": contenders}, default=str))
    if path.is_file():
        former = json.loads(read_text(path, what="settings file", error=ConfigError))
        same = {**former["recipes"], **current["recipes"]}
        changed = [name for name in ("data", "settings") if former[name] != current[name]]
        changed += [name for name, settings in former["recipes"].items() if same[name] != settings]
        if changed:
            raise ConfigError(
                f"{folder} has runs of a comparison with other settings ({listed(changed)}): choose another folder "
                "(--output), or remove it"
            )
        current["recipes"] = same
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(current, indent=1) + "\n", error=TrainingError)


def _train_all(
    data: str,
    runs: Mapping[tuple[str, int], Path],
    settings: Mapping[str, Mapping[str, Any]],
    *,
    jobs: int,
) -> None:
    """Train in child processes.

    Raises:
        TrainingError: a run failed.
    """
    threads = max(num_cores() // jobs, 1)
    running: Children = []
    with ThreadPoolExecutor(jobs) as pool:
        futures = {
            pool.submit(_train, data, {**settings[name], "output_dir": str(run), "seed": seed}, threads, running): (
                name,
                seed,
            )
            for (name, seed), run in runs.items()
        }
        try:
            for future in as_completed(futures):
                name, seed = futures[future]
                run = runs[name, seed]
                if problem := future.result():
                    raise TrainingError(f"{name} with seed {seed} failed: {problem}. See {run / LOG_FILE}")
                last = _evaluations(run)[-1]
                _log.info("%s with seed %d: AP %.1f after %d steps", name, seed, 100 * last.ap, last.step)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in running.copy():  # finished ones leave the list
                child.terminate()  # it writes a checkpoint first
            raise


def _train(data: str, settings: dict[str, Any], threads: int, running: Children) -> str | None:
    """Train one run in a process of its own, with its output in a file; return why it failed, on one line.

    The process does not import the caller's main module, so scripts and notebooks need no `if __name__` guard.
    """
    run = Path(settings["output_dir"])
    run.mkdir(parents=True, exist_ok=True)
    with (run / LOG_FILE).open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", f"import {__name__}; {__name__}.train_from_input()"],
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
        running.append(child)
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError), child.stdin as pipe:  # broken if it has ended; the log says why
            pickle.dump((data, settings), pipe)
            pipe.flush()
            child.wait()  # before the pipe is closed, which would stop it
        child.wait()
    running.remove(child)
    if child.returncode == 0:
        return None
    lines = [line for line in (run / LOG_FILE).read_bytes().splitlines() if line.strip()]
    return lines[-1].decode(errors="replace") if lines else f"exit status {child.returncode}"


def train_from_input() -> None:
    """Train with the settings on standard input, sent by `_train`; exit with status 1 and an error line.

    If the parent process ends, even if it is killed, its end of the pipe closes and this process receives SIGTERM: it
    writes a checkpoint and stops.
    """
    from rtdetr.api import train

    data, settings = pickle.load(sys.stdin.buffer)  # from the parent process
    threading.Thread(target=_terminate_at_end_of_input, daemon=True).start()
    try:
        result = train(data, resume="auto", **settings)
    except RTDETRError as error:
        sys.exit(one_line(error))
    if not result.finished:
        sys.exit(f"stopped by {result.signal}")


def _terminate_at_end_of_input() -> None:
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _epochs_done(run: Path) -> int:
    return max((row["epoch"] for row in read_records(run) if row["kind"] == "epoch"), default=0)


def _evaluations(run: Path) -> list[Evaluation]:
    """Return the evaluations of a run.

    Raises:
        TrainingError: there is none, because the validation data has no objects.
    """
    found: list[Evaluation] = []
    seconds = 0.0
    for row in read_records(run):
        if row["kind"] == "epoch":
            seconds += row["seconds"]
            if row["ap"] and row["ap"][0] >= 0:
                found.append(Evaluation(row["iteration"], seconds, row["ap"][0], row["ap"][1], row["ap"][3]))
    if not found:
        raise TrainingError(
            f"{run} has no AP, because the validation data has no objects: give other data (--val-data)"
        )
    return found
