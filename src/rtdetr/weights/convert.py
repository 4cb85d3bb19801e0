"""Convert weights to another format, as `rtdetr weights convert` does. Trained entries stay bit-identical."""

from pathlib import Path
from typing import Literal, NamedTuple, get_args

from rtdetr.categories import COCO80
from rtdetr.class_lists import GivenClasses
from rtdetr.config import ModelConfig
from rtdetr.devices import pytorch_defaults
from rtdetr.errors import ConfigError, WeightsError, nearest
from rtdetr.files import with_home
from rtdetr.models import build_model
from rtdetr.weights.assumptions import warn_assumed_sampling
from rtdetr.weights.huggingface import write_huggingface
from rtdetr.weights.load import ModelName, read_checkpoint
from rtdetr.weights.official import write_pth
from rtdetr.weights.rows import drop_unused_rows, name_rows
from rtdetr.weights.state import complete_state

Format = Literal["rtdetr", "official", "huggingface"]


class Conversion(NamedTuple):
    """What was written and where, with notes about the limits of the format."""

    path: Path
    format: Format
    config: ModelConfig
    num_entries: int
    notes: list[str]


@pytorch_defaults()
def convert(
    source: str | Path,
    target: str | Path,
    *,
    model: ModelName | None = None,
    format: str | None = None,
    categories: GivenClasses | None = None,
    drop_unused: bool = False,
) -> Conversion:
    """Read weights of any format and write them in another; missing constants are generated.

    Args:
        source: as for `read_checkpoint`.
        target: a .pth file, a .safetensors file, or a folder in the Hugging Face layout.
        model: as for `read_checkpoint`.
        format: "rtdetr" (.pth with a description of the model), "official" (.pth with only the content of published
            files) or "huggingface" (folder or .safetensors); None: by the name of the target.
        categories: classes of a source without class names, as for `rtdetr.load`.
        drop_unused: remove unused rows of the class heads; see `drop_unused_rows`.

    Raises:
        WeightsError: the source cannot be read, or the target cannot be written.
        ConfigError: the format does not match the name of the target.
    """
    target = with_home(target)
    chosen = _format(target, format)
    weights = read_checkpoint(source, model=model)
    if weights.assumes_sampling:
        warn_assumed_sampling(weights.path)
    if categories is not None:
        weights = name_rows(weights, categories)
    if drop_unused:
        weights = drop_unused_rows(weights)
    try:
        state = complete_state(build_model(weights.config), weights.state)
    except WeightsError as error:
        raise WeightsError(f"{weights.path}: {error}") from None
    notes = []
    config, classes, thresholds = weights.config, weights.categories, weights.thresholds
    if chosen == "huggingface":
        notes = write_huggingface(target, state, config=config, categories=classes, thresholds=thresholds)
    else:
        described = chosen == "rtdetr"
        write_pth(target, state, config=config, categories=classes, thresholds=thresholds, describe=described)
        if not described and (config.pixel_mean or config.pixel_std):
            notes = [
                "the official format cannot store that the network normalizes its images: before inference, subtract "
                f"{config.pixel_mean or 0} and divide by {config.pixel_std or 1}"
            ]
        if not described and classes is not None and classes != COCO80:
            notes.append("the official format has no class names: load the file with --classes (Python: categories)")
    return Conversion(target, chosen, weights.config, len(state), notes)


def _format(target: Path, chosen: str | None) -> Format:
    """Return the format of a target by its name, or the chosen one if it matches the name."""
    folder = target.is_dir() or target.suffix == ""
    if not folder and target.suffix.lower() not in (".pth", ".pt", ".safetensors"):
        raise ConfigError(f"cannot tell the format of {target}; expected a .pth or .safetensors file, or a folder")
    fitting: tuple[Format, ...] = ("huggingface",)
    if not folder and target.suffix.lower() != ".safetensors":
        fitting = ("rtdetr", "official")
    for name in fitting:
        if chosen in (None, name):
            return name
    known = get_args(Format)
    if chosen in known:
        raise ConfigError(f"format {chosen!r} does not match the target {target}; expected {' or '.join(fitting)}")
    raise ConfigError(f"unknown format {chosen!r}.{nearest(str(chosen), known)} Known: {', '.join(known)}.")
