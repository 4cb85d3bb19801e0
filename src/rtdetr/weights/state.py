"""Load entries into a model: strict for trained entries, tolerant for constants.

All trained entries must exist, have the right shape and be finite. Constants (anchors, their mask, the scale of the
points, batch counters) can be missing or belong to another image size; the model's own are used then. For another
number of classes or channels, use `transfer`.
"""

import torch
from torch import Tensor

from rtdetr.config import ModelConfig
from rtdetr.errors import WeightsError
from rtdetr.models import RTDETR
from rtdetr.weights.identify import WIDE, Observation, candidates, differences, observe, points_of_scale
from rtdetr.weights.names import State, to_version

CONSTANTS = ("decoder.anchors", "decoder.valid_mask", ".num_points_scale", ".num_batches_tracked")
LEARNED_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DENOISING = "decoder.denoising_class_embed.weight"


def load_state(model: RTDETR, state: State) -> None:
    """Load entries into a model: strict for trained entries, tolerant for constants.

    Args:
        model: the model to fill.
        state: entries under official names, v1 or v2, in any float type.

    Raises:
        WeightsError: the number of classes or the model differs, entries are missing or unknown, or a value is not
            finite.
    """
    model.load_state_dict(complete_state(model, state))


def complete_state(model: RTDETR, state: State) -> State:
    """Return all entries of a model, in its order: trained entries from `state`, constants from `state` if they apply.

    Stored anchors apply only at their own size and in float32 or wider (the EMA in training has changed them slightly,
    and published accuracy was measured with them); otherwise the model's own are used.

    Raises:
        WeightsError: as for `load_state`.
    """
    if model.is_fused:
        raise WeightsError("cannot load weights into a fused model. Load them first, then fuse")
    config = model.config
    state = to_version(state, config.version)
    own = model.state_dict()
    observation = observe(state)
    _check_counts(config, observation)
    missing = [key for key in own if key not in state and not key.endswith(CONSTANTS)]
    superfluous = [key for key in state if key not in own and not key.endswith(CONSTANTS)]
    if config.decoder.num_denoising == 0:  # the model is for inference only
        superfluous = [key for key in superfluous if key != DENOISING]
    learned = [key for key in own if key in state and not key.endswith(CONSTANTS)]
    wrong = [key for key in learned if state[key].shape != own[key].shape or state[key].dtype not in LEARNED_TYPES]
    if missing or superfluous or wrong or differences(observation.facts, config):
        raise WeightsError(_explain(config, observation, missing=missing, superfluous=superfluous, wrong=wrong))
    for key in learned:
        if not bool(state[key].isfinite().all()):
            raise WeightsError(f"entry {key!r} contains NaN or infinity: the training run that wrote it had diverged")
    keep_anchors = observation.eval_size_hw is not None and observation.eval_size_hw == config.eval_size_hw
    return {
        key: state[key] if key in state and _applies(key, state[key], fresh, keep_anchors=keep_anchors) else fresh
        for key, fresh in own.items()
    }


def _applies(key: str, stored: Tensor, fresh: Tensor, *, keep_anchors: bool) -> bool:
    """Whether an entry of the file replaces the model's own; trained entries always do."""
    if not key.endswith(CONSTANTS):
        return True
    if stored.shape != fresh.shape or stored.is_floating_point() != fresh.is_floating_point():
        return False
    if key == "decoder.anchors":
        return keep_anchors and stored.dtype in WIDE
    if key.endswith(".num_points_scale"):
        return stored.dtype in WIDE and points_of_scale(stored) == points_of_scale(fresh)
    return keep_anchors if key == "decoder.valid_mask" else True


def _check_counts(config: ModelConfig, observation: Observation) -> None:
    advice = "Build the model with that number, or use rtdetr.weights.transfer for other classes or channels."
    for what, found, expected in (
        ("classes", observation.num_classes, config.num_classes),
        ("image channels", observation.in_channels, config.in_channels),
    ):
        if found != expected:
            raise WeightsError(f"the checkpoint has {found} {what}, the model {config.name!r} has {expected}. {advice}")


def _explain(
    config: ModelConfig, observation: Observation, *, missing: list[str], superfluous: list[str], wrong: list[str]
) -> str:
    """Return why entries do not fit a model, on one line: counts, the first names, and the model it looks like."""
    parts = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in (("missing", missing), ("unknown", superfluous), ("with another shape or type", wrong))
        if keys
    ]
    parts += differences(observation.facts, config)[:2]
    return f"the entries do not fit the model {config.name!r}: {'; '.join(parts)}.{looks_like(config, observation)}"


def looks_like(config: ModelConfig, observation: Observation) -> str:
    """Return a sentence that names the zoo model of a file; empty if it is this model or none."""
    names = [candidate.name for candidate in candidates(observation)]
    return f" The file looks like {names[0]!r}." if names and config.name not in names else ""
