"""Transfer weights to other classes or image channels, or only a backbone. Everything else must fit.

Rows of the class heads and the denoising embedding are transferred by class name; rows of new classes keep the model's
random values. The weights of the first convolution are averaged over the image channels and repeated.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rtdetr.errors import WeightsError
from rtdetr.models import RTDETR
from rtdetr.weights.download import download
from rtdetr.weights.identify import STEMS, observe
from rtdetr.weights.names import State, to_version
from rtdetr.weights.official import checked_state, load_pickle
from rtdetr.weights.state import DENOISING, load_state
from rtdetr.wording import counted

CLASS_HEADS = ("decoder.enc_score_head.", "decoder.dec_score_head.", DENOISING)


class TransferReport(NamedTuple):
    """Report of a transfer.

    carried_classes: classes of the model with rows from the checkpoint.
    new_classes: classes (numbers if names are unknown) with random rows.
    reinitialized: class-dependent entries with random rows.
    adapted: entries adapted to another number of image channels.
    """

    carried_classes: tuple[str, ...]
    new_classes: tuple[str, ...]
    reinitialized: tuple[str, ...]
    adapted: tuple[str, ...]

    def __str__(self) -> str:
        carried = counted(len(self.carried_classes), "class")
        lines = [f"{carried} transferred, {len(self.new_classes)} initialized randomly"]
        if self.new_classes:
            names = ", ".join(self.new_classes[:8]) + (", ..." if len(self.new_classes) > 8 else "")
            lines.append(f"new classes: {names}; random rows in {', '.join(self.reinitialized)}")
        if self.adapted:
            lines.append(f"averaged over the image channels: {', '.join(self.adapted)}")
        return "; ".join(lines)


def transfer(
    model: RTDETR,
    state: State,
    *,
    source_names: Sequence[str] | None = None,
    target_names: Sequence[str] | None = None,
) -> TransferReport:
    """Load a checkpoint of the same network with other classes or image channels into a model.

    With names on both sides, rows are matched by name, ignoring case and surrounding spaces. Without names, rows are
    transferred only if the number of classes is the same.

    Args:
        model: a new model for the new classes and channels.
        state: entries under official names, v1 or v2.
        source_names: class names of the checkpoint, by label.
        target_names: class names of the model, by label.

    Returns:
        What was transferred, reinitialized and adapted.

    Raises:
        WeightsError: the number of names is wrong, or entries do not fit for another reason.
    """
    state = to_version(state, model.config.version)
    observation = observe(state)
    classes, old_classes = model.config.num_classes, observation.num_classes
    for names, count, owner in ((source_names, old_classes, "checkpoint"), (target_names, classes, "model")):
        if names is not None and len(names) != count:
            raise WeightsError(f"got {counted(len(names), 'class name')} for a {owner} with {counted(count, 'class')}")
    pairs = _matches(source_names, target_names, old_classes, classes)
    same = classes == old_classes and all(new == old for new, old in pairs.items()) and len(pairs) == classes
    own = model.state_dict()
    reinitialized = []
    for key in [] if same else [key for key in own if key.startswith(CLASS_HEADS) and key in state]:
        padding = 1 if key == DENOISING else 0  # its last row is for "no class" and stays zero
        rows = own[key].clone()
        if (len(rows), len(state[key])) != (classes + padding, old_classes + padding):
            if rows.shape != state[key].shape:  # class-agnostic on one side only
                state[key] = rows
                reinitialized.append(key)
            continue
        for new, old in pairs.items():
            rows[new] = state[key][old].to(rows.dtype)
        state[key] = rows
        if len(pairs) < classes:
            reinitialized.append(key)
    adapted = []
    for key in STEMS:
        if key in own and key in state and state[key].ndim == 4 and state[key].shape[1] != own[key].shape[1]:
            state[key] = _fit_channels(state[key], own[key].shape[1])
            adapted.append(key)
    load_state(model, state)
    names = [str(label) for label in range(classes)] if target_names is None else list(target_names)
    return TransferReport(
        carried_classes=tuple(names[label] for label in sorted(pairs)),
        new_classes=tuple(name for label, name in enumerate(names) if label not in pairs),
        reinitialized=tuple(reinitialized),
        adapted=tuple(adapted),
    )


def load_backbone(model: RTDETR, source: str | Path) -> TransferReport:
    """Load published ImageNet weights into a model's backbone, the starting point of training from scratch.

    Args:
        model: the model, usually new; it can have another number of image channels.
        source: URL (such as `zoo.backbone_url(config)`) or path of a file with the backbone's own names.

    Raises:
        WeightsError: the file is unreachable, damaged, or for another backbone.
    """
    path = download(str(source)) if "://" in str(source) else Path(source)
    state = checked_state(load_pickle(path), path)
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith("backbone.")}
    try:
        return transfer(model, {**{f"backbone.{key}": value for key, value in state.items()}, **kept})
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def _matches(source: Sequence[str] | None, target: Sequence[str] | None, old: int, new: int) -> dict[int, int]:
    """Map labels of the model to labels of the checkpoint, for the classes that both have."""
    if source is None or target is None:
        return {label: label for label in range(new)} if old == new else {}
    labels: dict[str, int] = {}
    for label, name in enumerate(source):
        labels.setdefault(name.strip().casefold(), label)
    return {label: labels[key] for label, name in enumerate(target) if (key := name.strip().casefold()) in labels}


def _fit_channels(weight: Tensor, channels: int) -> Tensor:
    """Spread a convolution's weights evenly over another number of input channels.

    The sum over the channels is unchanged, so an image with equal channels gives the same response.
    """
    total = weight.to(torch.float64).sum(1, keepdim=True)
    return (total / channels).expand(-1, channels, -1, -1).to(weight.dtype)
