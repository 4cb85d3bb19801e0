"""Brings a freshly built run to the point at which a checkpoint was saved (`checkpoint.py`)."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rtdetr.errors import ConfigError, WeightsError
from rtdetr.random_state import set_random_state
from rtdetr.reports.metrics import Sums
from rtdetr.training.checkpoint import TrainingState
from rtdetr.wording import are, counted

_log = logging.getLogger(__name__)
_COUNT = ".num_batches_tracked"  # of a batch norm that trains; nothing uses it
_WORDS = {  # names of settings and of what sets them, where a user knows them by others
    "num_classes": ("the number of classes", "DATA"),
    "eval_size_hw": ("the size", "--size"),
    "in_channels": ("the number of channels", "--set in_channels"),
}


def restore(content: Mapping[str, Any], state: TrainingState, *, rank: int = 0) -> None:
    """Bring a run to the point at which `content` was saved, the global random generators included.

    Rates, weight decays and what is frozen stay those of the new settings. A file of the published implementation,
    which has neither "progress" nor "rng", is taken to stand at the end of its last epoch. Without an average in it,
    the average starts from its weights.

    Raises:
        WeightsError: the checkpoint was made with another model or other parameter groups.
        ConfigError: it was made in the middle of an epoch of another length.
    """
    progress = state.progress
    done = content["last_epoch"] + 1
    saved = {"epoch": done, "iteration": done * progress.batches_per_epoch, **content.get("progress", {})}
    length = saved.pop("batches_per_epoch", progress.batches_per_epoch)
    if saved.get("batch") and length != progress.batches_per_epoch:
        raise ConfigError(
            f"resume: the run stopped in an epoch of {counted(length, 'batch')}, which are "
            f"{progress.batches_per_epoch} now. Go on with the same data and batch size"
        )
    if length != progress.batches_per_epoch:  # the schedule counts steps in epochs of the new length
        _log.warning("an epoch had %d steps and has %d now; the schedule follows", length, progress.batches_per_epoch)
        saved["iteration"] = saved["epoch"] * progress.batches_per_epoch
    average = content.get("ema") or {"module": content["model"], "updates": 0}
    if "ema" not in content and state.ema.decay:
        _log.warning("resume: the checkpoint has no average; it starts from the weights of the model")
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
    if rank < len(content.get("rng", [])):  # a process that was not there goes on from its seed
        set_random_state(content["rng"][rank])


def _fitting(saved: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Saved weights with the counts of batch norms as the model has them: a frozen norm has none."""
    own = {key: value for key, value in model.state_dict().items() if key.endswith(_COUNT)}
    return own | {key: value for key, value in saved.items() if not key.endswith(_COUNT) or key in own}


def _another_model(content: Mapping[str, Any], state: TrainingState, reason: str) -> str:
    """What to say of weights that do not fit, by the settings of the two networks where the checkpoint has its own."""
    former = content.get("rtdetr", {}).get("model")
    found = list(_differences(former, state.model.config.model_dump(mode="json"))) if former else []
    if not found:
        return f"resume: the checkpoint holds another model. {' '.join(reason.split())[:300]}"
    listed = "; ".join(f"{name} was {before} and is {now} ({option})" for name, before, now, option in found[:4])
    return (
        f"resume: the run has another network than is asked for: {listed}. Go on as the run was, or start a new one "
        "from its weights: --weights RUN/best.pth --output OTHER"
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
    """Give each parameter its moments; one that was not trained begins without, as in a new run."""
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
                f"resume: the checkpoint's optimiser has groups of {sizes} tensors, the run's has {expected}, and the "
                "checkpoint does not name them. Go on with the model, --freeze and parameter groups of the run, or "
                "start a new one from its weights: --weights RUN/best.pth --output OTHER"
            )
    optimizer.load_state_dict({"state": moments, "param_groups": own["param_groups"]})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            # the fused step goes through the memory of a parameter and its moments side by side, whatever their strides
            layout = parameter if value.shape == parameter.shape else value
            values[name] = torch.empty_like(layout, dtype=value.dtype, device=value.device).copy_(value)


def _by_name(
    moments: Mapping[int, Any], trained: Sequence[Sequence[str]], now: Sequence[Sequence[str]]
) -> dict[int, Any]:
    """Moments of parameters in other groups than they were saved in, by the new places."""
    place = {name: index for index, name in enumerate(name for group in trained for name in group)}
    names = [name for group in now for name in group]
    new, gone = set(names) - place.keys(), place.keys() - set(names)
    told = [f"{counted(len(new), 'tensor')} {are(new)} trained from now on, with moments of zero"] if new else []
    told += [f"{counted(len(gone), 'tensor')} {are(gone)} not trained any more"] if gone else []
    if told:
        _log.warning("resume: %s", "; ".join(told))
    return {index: moments[place[name]] for index, name in enumerate(names) if name in place and place[name] in moments}
