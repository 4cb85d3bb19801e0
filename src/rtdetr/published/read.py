"""Convert a YAML file of the published implementation to our settings.

`network.py` reads the model, `objective.py` loss and optimizer, `data.py` the data, and this module the settings of the
run. Every key is converted, listed in `IGNORED`, or an error; the table is in docs/training.md.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rtdetr import zoo
from rtdetr.config import STRIDE, ModelConfig, Recipe
from rtdetr.errors import ConfigError
from rtdetr.published.data import read_train_data, read_val_data
from rtdetr.published.network import BACKBONES, DECODERS, MODELS, read_network
from rtdetr.published.objective import CRITERIA, MATCHERS, POSTPROCESSORS, checked, read_loss, read_optimizer
from rtdetr.published.section import Section, flag, one_of, or_none, text, whole
from rtdetr.yaml_files import INCLUDE, Document, read_with_includes

MARKS = {INCLUDE, "task", "epoches", "criterion", "postprocessor", "optimizer", "lr_scheduler", "ema", *MODELS}
MARKS |= {"train_dataloader", "val_dataloader", "evaluator", "num_classes", "print_freq", "sync_bn"}

IGNORED = {
    "remap_mscoco_category": "labels follow the classes of the dataset; it matters only for checkpoints",
    "checkpoint_freq": "last.pth is written after every epoch, and keep_last sets how many are kept",
    "find_unused_parameters": "every parameter has a gradient in every step",
    "scaler": "float16 always uses gradient scaling; other types never need it",
    "summary_dir": "TensorBoard files are in the output folder",
    "last_epoch": "checkpoints contain the epoch",
    "print_method": "output is for a terminal",
    "print_rank": "the first process logs",
    "local_rank": "torchrun sets it in the environment",
    "test_only": "evaluation is started on the command line",
}
_UNUSED = (
    "CSPResNet",
    "CSPDarkNet",
    "CSPPAN",
    "TimmModel",
    "TorchVisionModel",
    "MResNet",
    "DetCriterion",
    "DetNMSPostProcessor",
)


class PublishedNetwork(NamedTuple):
    """The model that a published file describes, for a trained checkpoint.

    Attributes:
        network: the network, with the number of classes and evaluation size of the file.
        labels_are_ids: class rows are the category ids of the annotation files.
    """

    network: ModelConfig
    labels_are_ids: bool


class Published(NamedTuple):
    """Content of a published file.

    Attributes:
        settings: settings under the names of `TrainSettings`, with "data", and the file name as "recipe_name".
        network: the network, with the number of classes and evaluation size of the file.
        use_amp: whether mixed precision is enabled; None: not specified.
        resume: checkpoint to resume from, if the file names one.
    """

    settings: dict[str, Any]
    network: ModelConfig
    use_amp: bool | None
    resume: str | None


def is_published(values: Mapping[str, Any]) -> bool:
    """Return whether the top-level keys of a file are those of a published file instead of ours."""
    return any(key in MARKS or key[:1].isupper() for key in values)


def read_published(path: Path, *, updates: Mapping[str, Any] | None = None) -> Published:
    """Read a file with all files that it includes.

    Args:
        path: the file.
        updates: values by dotted key that override those in the files: {"train_dataloader.num_workers": 2}.

    Raises:
        ConfigError: a file is missing or broken, a key is unknown, or a value is not supported; the message names the
            file.
    """
    document = read_with_includes(path)
    for key, value in (updates or {}).items():
        _update(document, key, value)
    if not is_published(document.values):
        raise ConfigError(
            f"{path}: expected a published YAML file with sections such as RTDETR and train_dataloader. "
            f"For a file of rtdetr, use: rtdetr train -c {path}"
        )
    root = Section(document, document.values, ())
    root.only("task", "detection", why="the task is object detection")
    network, pretrained, scales = read_network(root)
    recipe: dict[str, Any] = {"loss": read_loss(root), **read_optimizer(root)}
    settings, of_data = read_train_data(root)
    val_settings, val_size = read_val_data(root)
    recipe |= of_data
    if scales:
        if recipe.get("multiscale_sizes"):
            raise root.error("expected either multi_scale in the model or scales in collate_fn, got both")
        recipe |= {"multiscale_sizes": scales, "multiscale_stop_epoch": None}
    recipe["epochs"] = root.take("epoches", whole(1))
    recipe["sync_batch_norm"] = root.take("sync_bn", flag, False)
    use_amp = root.take("use_amp", or_none(flag), None)
    recipe["precision"] = "auto" if use_amp else "float32"
    _check_evaluation(root, network, recipe, val_size)
    settings |= val_settings | _run(root)
    resume = root.take("resume", or_none(text), None)
    tuning = root.take("tuning", or_none(text), None)
    if tuning:
        settings["weights"] = zoo_name(tuning)
    elif pretrained and not resume:
        settings["backbone_weights"] = pretrained
    _finish(root)
    settings |= {"recipe": checked(root, Recipe, recipe), "recipe_name": path.name, "model": network.name}
    if network.name not in zoo.list_models():
        settings["network"] = network
    if labels_are_ids(document.values):
        settings["labels_are_ids"] = True
    return Published(settings, network, use_amp, resume)


def describes_network(values: Mapping[str, Any]) -> bool:
    """Return whether the top-level keys of a file, with its includes, describe the network of a published model."""
    return any(key in values for key in (*BACKBONES, *DECODERS, "HybridEncoder"))


def read_published_network(path: Path) -> PublishedNetwork | None:
    """Read the network of a file for a trained model; None if it has no network.

    Raises:
        ConfigError: as for `read_published`, for the keys of the network.
    """
    document = read_with_includes(path)
    if not describes_network(document.values):
        return None
    network = read_network(Section(document, document.values, ())).config
    return PublishedNetwork(network, labels_are_ids(document.values))


def labels_are_ids(values: Mapping[str, Any]) -> bool:
    """Return whether the labels of a published file are category ids, with one class row per id from 0 on.

    This is the case for COCO data without `remap_mscoco_category`, which defaults to False.
    """
    loaders = [values.get(name) for name in ("val_dataloader", "train_dataloader")]
    datasets = [loader.get("dataset") for loader in loaders if isinstance(loader, Mapping)]
    dataset = next((dataset for dataset in datasets if isinstance(dataset, Mapping)), None)
    remap = values.get("remap_mscoco_category", (dataset or {}).get("remap_mscoco_category", False))
    is_coco = dataset is not None and dataset.get("type", "CocoDetection") == "CocoDetection"
    return remap is False and (is_coco or "remap_mscoco_category" in values)


def zoo_name(url: str) -> str:
    """Return the zoo name of weights with a published URL; other values are returned unchanged."""
    for name in zoo.list_models():
        for tag, checkpoint in zoo.entry(name).checkpoints.items():
            if checkpoint.url == url:
                return f"{name}:{tag}"
    return url


def _update(document: Document, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    values, at = document.values, ()
    for parent in parents:
        at = (*at, parent)
        inner = values.get(parent)
        if inner is not None and not isinstance(inner, dict):
            raise ConfigError(f"{key}: {'.'.join(at)} is not a section, so nothing in it can be set")
        values[parent] = inner = dict(inner or {})
        values = inner
    values[last] = value
    document.origins[tuple(key.split("."))] = Path("command line")


def _run(root: Section) -> dict[str, Any]:
    kinds = {
        "output_dir": ("output_dir", text),
        "seed": ("seed", whole()),
        "device": ("device", text),
        "print_freq": ("log_every", whole(1)),
    }
    found = {name: root.take(key, or_none(kind), None) for key, (name, kind) in kinds.items()}
    return {name: value for name, value in found.items() if value is not None}


def _check_evaluation(root: Section, network: ModelConfig, recipe: dict[str, Any], val_size: list[int] | None) -> None:
    """Check that evaluation and training use the same image size, apart from multi-scale."""
    evaluator = root.inside("evaluator")
    if evaluator is not None:
        evaluator.take("type", one_of("CocoEvaluator"))
        evaluator.only("iou_types", ["bbox"], why="only boxes are evaluated")
        evaluator.finish()
    train = recipe.get("train_size_hw")
    sizes = {tuple(size) for size in (train, val_size, network.eval_size_hw) if size is not None}
    if len(sizes) > 1:
        shown = " and ".join(f"{height}x{width}" for height, width in sorted(sizes))
        raise root.error(f"expected the same size for eval_spatial_size and for Resize in both datasets, got {shown}")
    if sizes:
        recipe["train_size_hw"] = sizes.pop()
        if any(side % STRIDE for side in recipe["train_size_hw"]):
            raise root.error(f"expected multiples of 32 as image size, got {recipe['train_size_hw']}")


def _finish(root: Section) -> None:
    root.ignore(*IGNORED)
    root.ignore(*BACKBONES, *DECODERS, "HybridEncoder", *MODELS, *CRITERIA, *MATCHERS, *POSTPROCESSORS, *_UNUSED)
    root.finish()
