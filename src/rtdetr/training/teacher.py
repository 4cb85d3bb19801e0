"""The teacher of a run: a trained detector that sees the same images and guides the student."""

import hashlib
import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from rtdetr.categories import Categories
from rtdetr.config import ModelConfig, TrainConfig
from rtdetr.devices import at_least_float32
from rtdetr.errors import ConfigError
from rtdetr.exported_files import exported_format
from rtdetr.models import RTDETR
from rtdetr.models.fuse import fuse
from rtdetr.models.query_selection import select_queries
from rtdetr.structures import Guidance, GuidedQueries, RTDETROutput, Trace
from rtdetr.training.starting_weights import is_fetched, names_of_rows
from rtdetr.weights import build_from, read_checkpoint
from rtdetr.wording import counted, listed

_log = logging.getLogger(__name__)


class Teacher:
    """Turns images into `Guidance`. Its weights do not change, and it draws no random numbers.

    Attributes:
        model: the detector, fused.
        labels: label of the student by label of the teacher, for the classes of both.
        name: name or file of its weights.
        categories: its classes.
        thresholds: its best score threshold by label, if measured.
        fingerprint: hash of the weights, int64 (1,); see `fingerprint.py`.
    """

    def __init__(
        self,
        model: RTDETR,
        labels: dict[int, int],
        *,
        name: str,
        categories: Categories | None = None,
        thresholds: tuple[float, ...] | None = None,
        fingerprint: Tensor | None = None,
    ) -> None:
        self.model, self.labels, self.name, self.thresholds = fuse(model), labels, name, thresholds
        self.fingerprint = torch.zeros(1, dtype=torch.int64) if fingerprint is None else fingerprint
        self.categories = categories or Categories.numbered(model.config.num_classes)
        device = next(model.parameters()).device
        self._rows, self._labels = (torch.tensor(list(x), device=device) for x in (labels.keys(), labels.values()))

    @torch.no_grad()
    def __call__(self, images: Tensor, *, with_maps: bool = True) -> Guidance:
        """Return what the teacher detects in images, float (b, c, h, w) in [0, 1], with or without its encoder maps."""
        trace = Trace()
        found = self.model(images, trace=trace)
        assert isinstance(found, RTDETROutput) and trace.token_logits is not None
        assert trace.reference_logits is not None
        method = self.model.config.decoder.query_selection
        tokens = select_queries(trace.token_logits, self.model.num_queries, method)
        wide = at_least_float32(found.logits.dtype)
        return Guidance(
            GuidedQueries(tokens, trace.reference_logits.sigmoid()),
            found.logits[..., self._rows].to(wide).sigmoid(),
            found.boxes_cxcywh.to(wide),
            self._labels,
            tuple(trace.encoder_maps) if with_maps else (),
        )

    def describe(self, categories: Categories) -> str:
        """Return a line for the plan."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        known = f"{len(self.labels)} of " if len(self.labels) < len(categories) else "all "
        return f"{self.name}, {parameters:.1f} M parameters; knows {known}{counted(len(categories), 'class')}"


def load_teacher(
    config: TrainConfig, student: ModelConfig, categories: Categories, *, device: torch.device, dry_run: bool
) -> Teacher | None:
    """Load the teacher of a run; None if it has none, or if it would be downloaded and `dry_run` is set.

    Args:
        config: settings of the run.
        student: the network to train.
        categories: classes of the data; those of the teacher are matched by name.
        device: where the teacher runs.
        dry_run: do not download anything.

    Raises:
        ConfigError: the file is an exported model, or the teacher has none of the classes, other image channels or
            another number of feature levels.
        WeightsError: the weights cannot be read.
    """
    name = config.teacher
    if name is None or (dry_run and is_fetched(name)):
        return None
    if (form := exported_format(name)) is not None:
        raise ConfigError(
            f"teacher (--teacher): {name} is an exported model ({form}), but a teacher needs its PyTorch weights. Give "
            "the .pth or .safetensors file that it was exported from"
        )
    loaded = read_checkpoint(name)
    _check_network(name, loaded.config, student)
    names = names_of_rows(loaded, categories, labels_are_ids=False)
    label_of = {known: label for label, known in enumerate(categories.names)}
    shared = [row for row, known in enumerate(names or ()) if known in label_of]
    if not shared:
        raise ConfigError(
            f"teacher (--teacher): {name} detects none of the classes of the data. It detects "
            f"{listed(names, shown=repr) if names else counted(loaded.config.num_classes, 'unnamed class')}; the data "
            f"has {listed(categories.names, shown=repr)}. Classes are matched by name: use a teacher trained on some "
            "of these"
        )
    assert names is not None
    missing = [known for known in categories.names if known not in names]
    if missing:
        _log.info(
            "the teacher %s does not know %s: %s; learned from the annotations only",
            *(name, counted(len(missing), "class"), listed(missing, shown=repr)),
        )
    if missing and config.unlabelled is not None:
        _log.warning(
            "the teacher does not label %s in the unlabelled images, where such objects count as background: use only "
            "images without them, or another teacher",
            listed(missing, shown=repr),
        )
    model, own_categories = build_from(loaded)
    model = model.to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return Teacher(
        model,
        {row: label_of[names[row]] for row in shared},
        name=name,
        categories=own_categories,
        thresholds=loaded.thresholds,
        fingerprint=_hash_of(loaded.state),
    )


def _hash_of(state: Mapping[str, Tensor]) -> Tensor:
    """Return a hash of weights as they are in the file, which does not depend on the device; int64 (1,)."""
    content = hashlib.blake2b(digest_size=8)
    for value in state.values():
        content.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return torch.tensor([int.from_bytes(content.digest(), "little", signed=True)])


def _check_network(name: str, teacher: ModelConfig, student: ModelConfig) -> None:
    """Refuse a teacher whose tokens are not those of the student."""
    if teacher.in_channels != student.in_channels:
        raise ConfigError(
            f"teacher (--teacher): {name} expects images with {counted(teacher.in_channels, 'channel')}, but the model "
            f"expects {student.in_channels}. Use a teacher with {student.in_channels}, or set in_channels"
        )
    levels, own = len(teacher.decoder.num_points), len(student.decoder.num_points)
    if levels != own:
        raise ConfigError(
            f"teacher (--teacher): {name} has {counted(levels, 'feature level')}, but the model has {own}. Use a "
            f"teacher with {own}"
        )
