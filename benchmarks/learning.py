"""Which recipe wins on which kind of data: AP of recipes on families of drawn datasets, at equal steps and equal time.

    python benchmarks/learning.py --folder FOLDER [--families usual,few] [--recipes published,finetune,scratch]
        [--steps 500] [--seeds 3] [--pretrained STEPS [--pretraining-recipe scratch]]
        [--teacher STEPS [--unlabelled IMAGES]] [--results FILE] [--quick]

`learning_scenes.py` draws the families. A small network is trained from scratch, or from weights that are trained once
on other classes (--pretrained), in place of COCO. Learning rates are those of the recipes, times 4: they were published
for networks of width 256, and this one has a width of 64. The runs stay in FOLDER: repeat the command to continue after
an interruption. Prints a table and draws learning.png in FOLDER. The results are added to FILE, by default
FOLDER/learning.jsonl, which `learning_results.py` reads. --quick is a run of a few minutes. A recipe may be changed:
finetune+train.mosaic=0.5+lr_factor=2 is `finetune` with mosaics and twice its learning rate. With --teacher, a network
of twice the width and another number of queries is trained once on the data of each family, for STEPS steps, and
deim+teacher is `deim` with this teacher; deim+teacher+unlabelled also trains on IMAGES more images of the family,
without their annotations, in as many steps.
"""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import learning_results
from learn_runs import SMALL, finished_weights
from learning_scenes import FAMILIES, PRETRAINING, UNSEEN, Family, make_dataset
from peers import environment

import rtdetr
from rtdetr.comparison import Comparison, compare
from rtdetr.machine import num_cores
from rtdetr.recipes import resolve
from rtdetr.recipes.changes import parse_assignments

SIDE = 128  # of the square network input in pixels
BATCH_SIZE = 8
RATE_FACTOR = 256 / SMALL.decoder.width
TEACHER_RECIPE = "scratch"
WIDE = SMALL.replace(  # the teacher
    name="learn-wide",
    backbone={"base_width": 32},
    encoder={"width": 128, "feedforward": 256},
    decoder={"width": 128, "feedforward": 256, "num_layers": 3, "num_queries": 80},
)
COMMON: dict[str, Any] = {
    "model": SMALL.name,
    "network": SMALL,
    "batch_size": BATCH_SIZE,
    "size_hw": (SIDE, SIDE),
    "workers": 0,
    "precision": "float32",  # faster than 16 bits for a network of this size, and the same on all machines
}


def variant(
    name: str,
    data: Path,
    *,
    steps: int,
    weights: Path | None,
    teacher: Path | None = None,
    unlabelled: Path | None = None,
) -> dict[str, Any]:
    """Return the settings of a recipe, which may be changed by +NAME=VALUE, +lr_factor=VALUE, +teacher, +unlabelled."""
    recipe, *changes = name.split("+")
    settings: dict[str, Any] = {"recipe": recipe}
    for word, path in (("teacher", teacher), ("unlabelled", unlabelled)):
        if word in changes:
            changes.remove(word)
            settings[word] = str(path)
    values = parse_assignments(changes, option="--recipes")
    factor = float(values.pop("lr_factor", "1"))
    return {**settings, **optimization(recipe, data, steps=steps, weights=weights, changes=values, factor=factor)}


def optimization(
    recipe: str,
    data: Path,
    *,
    steps: int,
    weights: Path | None = None,
    changes: Mapping[str, Any] | None = None,
    factor: float = 1.0,
) -> dict[str, Any]:
    """Return a recipe's changes and optimizer, and its learning rate for this run times `RATE_FACTOR` and `factor`."""
    images = len(rtdetr.data.open_dataset(data, split="train"))
    epochs = max(round(steps / max(images // BATCH_SIZE, 1)), 1)
    settings = {**COMMON, "recipe": recipe, "epochs": epochs, "weights": weights, "output_dir": "unused"}
    found = resolve(str(data), {**settings, "set": changes or {}}).config.recipe
    # with a rate, `scratch` uses AdamW unless the optimizer is given too
    return {"lr": factor * found.lr * RATE_FACTOR, "set": {**(changes or {}), "train.optimizer": found.optimizer}}


def pretrain(folder: Path, recipe: str, *, steps: int, device: str) -> Path:
    """Train the network that fine-tuning starts from, unless it exists, and return its weights."""
    data = make_dataset(folder / "data" / PRETRAINING.name, PRETRAINING, seed=0)
    epochs = max(round(steps / (PRETRAINING.train_images // BATCH_SIZE)), 1)
    result = rtdetr.train(
        data,
        output_dir=folder / "weights" / f"{recipe} {steps}",
        resume="auto",
        **variant(recipe, data, steps=steps, weights=None),
        epochs=epochs,
        evaluate_every=0,
        rehearsal=False,
        device=device,
        **COMMON,
    )
    return finished_weights(result)


def train_teacher(folder: Path, data: Path, family: Family, *, steps: int, device: str) -> Path:
    """Train the teacher of a family, unless it exists, and return its weights."""
    epochs = max(round(steps / (family.train_images // BATCH_SIZE)), 1)
    wide = {**COMMON, "model": WIDE.name, "network": WIDE}
    factor = 256 / WIDE.decoder.width / RATE_FACTOR
    result = rtdetr.train(
        data,
        output_dir=folder / f"teachers, {steps} steps" / family.name,
        resume="auto",
        recipe=TEACHER_RECIPE,
        **optimization(TEACHER_RECIPE, data, steps=steps, factor=factor),
        epochs=epochs,
        evaluate_every=epochs,
        rehearsal=False,
        device=device,
        **wide,
    )
    weights = finished_weights(result)
    print(f"{family.name}: the teacher has AP {100 * (result.best_ap or 0):.1f}")
    return weights


def measure(family: Family, options: argparse.Namespace, weights: Path | None) -> Comparison:
    """Compare the recipes on one family."""
    data = make_dataset(options.folder / "data" / family.name, family, seed=options.data_seed)
    sources: dict[str, Path] = {}
    if options.teacher:
        sources["teacher"] = train_teacher(options.folder, data, family, steps=options.teacher, device=options.device)
    if options.unlabelled:
        more = family._replace(train_images=options.unlabelled, val_images=1)
        folder = options.folder / "data" / f"{family.name}, {options.unlabelled} more"
        sources["unlabelled"] = make_dataset(folder, more, seed=options.data_seed + 1) / "images" / "train"
    recipes = {name: variant(name, data, steps=options.steps, weights=weights, **sources) for name in options.recipes}
    setup = f"{'scratch' if weights is None else f'weights {weights.parent.name}'}, {options.steps} steps"
    found = compare(
        data,
        recipes,
        steps=options.steps,
        seeds=options.seeds,
        jobs=options.jobs,
        output_dir=options.folder / setup / family.name,
        weights=weights,
        device=options.device,
        **COMMON,
    )
    learning_results.add(options.results or options.folder / "learning.jsonl", setup, family.name, found)
    return found


def main() -> None:
    known = {family.name: family for family in (*FAMILIES, *UNSEEN)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder for datasets, runs and the plot")
    parser.add_argument("--families", default=",".join(family.name for family in FAMILIES))
    parser.add_argument("--recipes", default="published,finetune,scratch")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-seed", type=int, default=0, help="random seed of the datasets")
    parser.add_argument("--pretrained", type=int, metavar="STEPS", help="start from weights trained for STEPS steps")
    parser.add_argument(
        "--pretraining-recipe", default="scratch", metavar="RECIPE", help="recipe of the --pretrained weights"
    )
    parser.add_argument("--teacher", type=int, metavar="STEPS", help="train a teacher for each family for STEPS steps")
    parser.add_argument("--unlabelled", type=int, metavar="IMAGES", help="number of additional images, for +unlabelled")
    parser.add_argument("--results", type=Path, metavar="FILE", help="default: learning.jsonl in the folder")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=num_cores(), help="runs at the same time")
    parser.add_argument("--quick", action="store_true", help="one family, two recipes, 2 seeds, 50 steps")
    options = parser.parse_args()
    if options.quick:
        options.families, options.recipes, options.seeds, options.steps = "usual", "published,deim", 2, 50
    for word, option in (("teacher", "--teacher STEPS"), ("unlabelled", "--unlabelled IMAGES")):
        if f"+{word}" in options.recipes and not getattr(options, word):
            parser.error(f"+{word} needs {option}")
    names = [name.strip() for name in options.families.split(",")]
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown families {', '.join(unknown)}. Known: {', '.join(known)}")
    options.recipes = learning_results.split_recipes(options.recipes)
    if alone := [name for name in options.recipes if "+unlabelled" in name and "+teacher" not in name]:
        parser.error(f"unlabelled images need a teacher that labels them: add +teacher to {', '.join(alone)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(environment("cpu" if options.device == "auto" else options.device), "\n")
    weights = None
    if steps := options.pretrained:
        weights = pretrain(options.folder, options.pretraining_recipe, steps=steps, device=options.device)
    results = {name: measure(known[name], options, weights) for name in names}
    learning_results.show(results)
    learning_results.draw({f"{options.steps} steps": results}, options.folder / "learning.png")


if __name__ == "__main__":
    main()
