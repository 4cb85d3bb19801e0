"""Restore a newly built run to the point at which a checkpoint was saved (`checkpoint.py`)."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rtdetr.errors import ConfigError, WeightsError
from rtdetr.random_state import set_random_state
from rtdetr.reports.metrics import Sums
from rtdetr.training.checkpoint import TrainingState
from rtdetr.training.muon import MOMENTUM_BUFFER
from rtdetr.wording import are, counted

_log = logging.getLogger(__name__)
_COUNT = ".num_batches_tracked"  # of trainable batch norms; not used in training
_WORDS = {  # field -> what users call it, and the option that sets it
    "num_classes": ("the number of classes", "DATA"),
    "eval_size_hw": ("the size", "--size"),
    "in_channels": ("the number of channels", "--set in_channels"),
}


def restore(content: Mapping[str, Any], state: TrainingState, *, rank: int = 0) -> None:
    """Restore a run to the point at which `content` was saved, including the global random generators.

    Learning rates, weight decay and frozen layers are those of the new settings. A checkpoint of the published
    implementation, which has neither "progress" nor "rng", is resumed at the end of its last epoch. If it has no EMA,
    the EMA starts from its weights.

    Raises:
        WeightsError: the checkpoint was made with another model or other parameter groups.
        ConfigError: it was saved in the middle of an epoch, and the number of steps per epoch has changed.
    """
    progress = state.progress
    done = content["last_epoch"] + 1
    saved = {"epoch": done, "iteration": done * progress.batches_per_epoch, **content.get("progress", {})}
    length = saved.pop("batches_per_epoch", progress.batches_per_epoch)
    if saved.get("batch") and length != progress.batches_per_epoch:
        raise ConfigError(
            f"resume: the run stopped in the middle of an epoch of {counted(length, 'batch')}; an epoch now has "
            f"{progress.batches_per_epoch}. Resume with the same data and batch size"
        )
    if length != progress.batches_per_epoch:  # the schedule counts steps in epochs of the new length
        _log.warning("an epoch had %d steps and has %d now; the schedule follows", length, progress.batches_per_epoch)
        saved["iteration"] = saved["epoch"] * progress.batches_per_epoch
    average = content.get("ema") or {"module": content["model"], "updates": 0}
    if "ema" not in content and state.ema.decay:
        _log.warning("resume: the checkpoint has no EMA weights; the average starts from the weights of the model")
    try:
        state.model.load_state_dict(_fitting(content["model"], state.model))
        state.ema.load_state_dict({**average, "module": _fitting(average["module"], state.ema.module)})
    except RuntimeError as error:
        raise WeightsError(_another_model(content, state, str(error))) from None
    _restore_optimizer(state, content["optimizer"], content.get("trained"))
    if content.get("scaler") and state.scaler.is_enabled():
        state.scaler.load_state_dict(content["scaler"])
    for name, value in saved.items():
        setattr(progress, name, Sums(**value) if name in ("since_row", "of_epoch") else value)
    if rank < len(content.get("rng", [])):  # an additional process starts from its seed
        set_random_state(content["rng"][rank])


def _fitting(saved: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return the saved weights with only those batch counters that the model has; frozen norms have none."""
    own = {key: value for key, value in model.state_dict().items() if key.endswith(_COUNT)}
    return own | {key: value for key, value in saved.items() if not key.endswith(_COUNT) or key in own}


def _another_model(content: Mapping[str, Any], state: TrainingState, reason: str) -> str:
    """Return why weights do not fit: the settings that differ, if the checkpoint stores its settings."""
    former = content.get("rtdetr", {}).get("model")
    found = list(_differences(former, state.model.config.model_dump(mode="json"))) if former else []
    if not found:
        return f"resume: the checkpoint holds another model. {' '.join(reason.split())[:300]}"
    listed = "; ".join(f"{name} was {before} and is {now} ({option})" for name, before, now, option in found[:4])
    return (
        f"resume: the network differs from that of the run: {listed}. Resume with the settings of the run, or start a "
        "new run from its weights: --weights RUN/best.pth --output OTHER"
    )


def _differences(former: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any, str]]:
    for name in sorted(former.keys() & now.keys()):
        if former[name] == now[name]:
            continue
        if isinstance(former[name], Mapping) and isinstance(now[name], Mapping):
            for inner, before, after, _option in _differences(former[name], now[name]):
                yield f"{name}.{inner}", before, after, f"--set model.{name}.{inner}"
        else:
            word, option = _WORDS.get(name, (name, "--model"))
            yield word, former[name], now[name], option


def _restore_optimizer(state: TrainingState, saved: Mapping[str, Any], trained: Sequence[Sequence[str]] | None) -> None:
    """Restore the moments of each parameter; parameters that were not trained before start without moments."""
    optimizer = state.optimizer
    own = optimizer.state_dict()
    moments = saved["state"]
    if trained is not None and trained != state.trained:
        moments = _by_name(moments, trained, state.trained)
    elif trained is None:
        sizes, expected = (
            [len(group["params"]) for group in groups] for groups in (saved["param_groups"], own["param_groups"])
        )
        if sizes != expected:
            raise WeightsError(
                f"resume: the checkpoint's optimizer has groups of {sizes} tensors, this run's has {expected}, and the "
                "checkpoint does not name them. Resume with the model, --freeze, optimizer and parameter groups of the "
                "run, or start a new run from its weights: --weights RUN/best.pth --output OTHER"
            )
    kept = _of_same_kind(moments, own["param_groups"])
    if len(kept) < len(moments):
        lost = counted(len(moments) - len(kept), "tensor")
        _log.warning("resume: train.optimizer has changed; %s start with zero moments", lost)
    optimizer.load_state_dict({"state": kept, "param_groups": own["param_groups"]})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            # fused AdamW reads a parameter and its moments in memory order, so their strides must agree
            layout = parameter if value.shape == parameter.shape else value
            values[name] = torch.empty_like(layout, dtype=value.dtype, device=value.device).copy_(value)


def _of_same_kind(moments: Mapping[int, Any], groups: Sequence[Mapping[str, Any]]) -> dict[int, Any]:
    """Return the moments that belong to the optimizer of their parameter, which may be Muon."""
    kinds = {index: group.get("muon", False) for group in groups for index in group["params"]}
    return {index: values for index, values in moments.items() if (MOMENTUM_BUFFER in values) == kinds[index]}


def _by_name(
    moments: Mapping[int, Any], trained: Sequence[Sequence[str]], now: Sequence[Sequence[str]]
) -> dict[int, Any]:
    """Return the moments by the new positions of the parameters, for parameter groups that have changed."""
    place = {name: index for index, name in enumerate(name for group in trained for name in group)}
    names = [name for group in now for name in group]
    new, gone = set(names) - place.keys(), place.keys() - set(names)
    changes = [f"{counted(len(new), 'tensor')} {are(new)} now trained, starting with zero moments"] if new else []
    changes += [f"{counted(len(gone), 'tensor')} {are(gone)} no longer trained"] if gone else []
    if changes:
        _log.warning("resume: %s", "; ".join(changes))
    return {index: moments[place[name]] for index, name in enumerate(names) if name in place and place[name] in moments}
