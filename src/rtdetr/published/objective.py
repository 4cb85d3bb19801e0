"""The training sections of a published file: loss, optimizer, schedules and EMA."""

from typing import Any

from rtdetr.config import LossConfig
from rtdetr.errors import ConfigError
from rtdetr.published.network import OLDER_CRITERION, component
from rtdetr.published.section import Section, flag, list_of, mapping, number, one_of, or_none, text, whole

CRITERIA = ("RTDETRCriterionv2", "RTDETRCriterion", OLDER_CRITERION, "DEIMCriterion")
MATCHERS = ("HungarianMatcher",)
POSTPROCESSORS = ("RTDETRPostProcessor", "PostProcessor")
_KINDS = ("vfl", "focal", "mal")
_FOCAL = "class scores are independent sigmoids"


def read_loss(root: Section) -> LossConfig:
    """Return the loss of a file: its criterion with the matcher. The postprocessor is checked too.

    Raises:
        ConfigError: a value is not supported, or a key is unknown.
    """
    focal = root.take("use_focal_loss", or_none(flag), None)
    if focal is False:
        raise root.error(f"{_FOCAL}, so False is not supported; expected True", "use_focal_loss")
    _check_postprocessor(root)
    criterion_name, criterion = component(root, root, "criterion", *CRITERIA, default=CRITERIA[0])
    matching = _matching(root, criterion, focal)
    of_deim = criterion_name == "DEIMCriterion"
    known = _KINDS if of_deim else _KINDS[:2]
    names = criterion.take("losses", list_of(one_of(*known, "boxes")))
    kinds = [name for name in names if name != "boxes"]
    if len(kinds) != 1 or "boxes" not in names:
        raise criterion.error(f"expected 'boxes' and one of {', '.join(map(repr, known))}, got {names}", "losses")
    if of_deim:
        why = "each layer is matched separately"
        criterion.only("use_uni_set", False, why=why, left_out=True)
    weights = criterion.take("weight_dict", mapping)
    weights = Section(root.document, weights, (*criterion.at, "weight_dict"))
    values: dict[str, Any] = {
        "classification": kinds[0],
        "classification_weight": weights.take(f"loss_{kinds[0]}", number, 0.0),  # a loss without a weight is not used
        "bbox_weight": weights.take("loss_bbox", number, 0.0),
        "giou_weight": weights.take("loss_giou", number, 0.0),
        "alpha": criterion.take("alpha", number, 0.2),
        "gamma": criterion.take("gamma", number, 2.0),
        "boxes_weight_format": criterion.take("boxes_weight_format", or_none(one_of("iou", "giou")), None),
        "share_matched_indices": criterion.take("share_matched_indices", flag, False),
    }
    weights.ignore(*(f"loss_{kind}" for kind in known))  # weights of unused losses, from an included file
    weights.finish()
    criterion.ignore("num_classes", "eos_coef")
    criterion.finish()
    return checked(root, LossConfig, values | matching)


def _matching(root: Section, criterion: Section, focal: bool | None) -> dict[str, float]:
    _, matcher = component(root, criterion, "matcher", *MATCHERS, default=MATCHERS[0])
    if not (matcher.take("use_focal_loss", flag, False) or focal):
        raise matcher.error(f"{_FOCAL}; expected use_focal_loss: True at the top of the file")
    weights = Section(root.document, matcher.take("weight_dict", mapping), (*matcher.at, "weight_dict"))
    values = {
        "match_class_cost": weights.take("cost_class", number),
        "match_bbox_cost": weights.take("cost_bbox", number),
        "match_giou_cost": weights.take("cost_giou", number),
        "match_alpha": matcher.take("alpha", number, 0.25),
        "match_gamma": matcher.take("gamma", number, 2.0),
    }
    weights.finish()
    matcher.finish()
    return values


def _check_postprocessor(root: Section) -> None:
    root.ignore("num_top_queries")
    _, section = component(root, root, "postprocessor", *POSTPROCESSORS, default=POSTPROCESSORS[0])
    section.only("use_focal_loss", True, why=_FOCAL)
    section.ignore("num_classes", "num_top_queries", "remap_mscoco_category")
    section.finish()


def read_optimizer(root: Section) -> dict[str, Any]:
    """Return the optimizer, schedule and EMA settings of a file, under the names of `Recipe`.

    Raises:
        ConfigError: a value is not supported, or a key is unknown.
    """
    section = root.inside("optimizer")
    values: dict[str, Any] = {"clip_max_norm": root.take("clip_max_norm", or_none(number), None) or 0.0}
    if section is not None:
        section.only("type", "AdamW", why="the optimizer is AdamW")
        section.only("eps", 1e-8, why="the optimizer's eps is 1e-8")
        section.only("amsgrad", False, why="the optimizer is AdamW without AMSGrad")
        values["lr"] = section.take("lr", number, 1e-3)
        values["weight_decay"] = section.take("weight_decay", number, 1e-2)
        values["betas"] = tuple(section.take("betas", list_of(number), [0.9, 0.999]))
        if len(values["betas"]) != 2:
            raise section.error(f"expected two numbers, got {list(values['betas'])}", "betas")
        groups = section.take("params", or_none(list_of(mapping)), None) or []
        values["groups"] = tuple(_group(section, index, group) for index, group in enumerate(groups))
        section.finish()
    return values | _schedule(root) | _average(root)


def _group(section: Section, index: int, values: dict[str, Any]) -> dict[str, Any]:
    group = Section(section.document, values, (*section.at, "params", str(index)))
    found = {
        "pattern": group.take("params", text),
        "lr": group.take("lr", or_none(number), None),
        "weight_decay": group.take("weight_decay", or_none(number), None),
    }
    group.finish()
    return found


def _schedule(root: Section) -> dict[str, Any]:
    if root.take("lrsheduler", or_none(one_of("flatcosine")), None) is not None:
        return _flat_cosine(root)
    root.ignore("warmup_iter", "flat_epoch", "no_aug_epoch", "lr_gamma")
    values: dict[str, Any] = {"schedule": "constant", "warmup_iterations": 0}
    section = root.inside("lr_scheduler")
    if section is not None:
        section.take("type", one_of("MultiStepLR"))
        values["milestones"] = tuple(section.take("milestones", list_of(whole(1))))
        values["milestone_factor"] = section.take("gamma", number, 0.1)
        values |= {"schedule": "steps", "milestones_after_warmup": True}
        section.ignore("last_epoch")
        section.finish()
    section = root.inside("lr_warmup_scheduler")
    if section is not None:
        section.take("type", one_of("LinearWarmup"))
        values["warmup_iterations"] = section.take("warmup_duration", whole())
        section.finish()
    return values


def _flat_cosine(root: Section) -> dict[str, Any]:
    """Return the schedule of DEIM's files, which replaces their other two schedulers."""
    root.ignore("lr_scheduler", "lr_warmup_scheduler")
    return {
        "schedule": "flat_cosine",
        "warmup_iterations": root.take("warmup_iter", whole()),
        "flat_epochs": root.take("flat_epoch", whole()),
        "no_augmentation_epochs": root.take("no_aug_epoch", whole()),
        "final_lr_factor": root.take("lr_gamma", number),
    }


def _average(root: Section) -> dict[str, Any]:
    """Return the EMA settings; a decay of 0 disables EMA."""
    is_used = root.take("use_ema", flag, False)
    section = root.inside("ema")
    decay, warmup = 0.9999, 2000
    if section is not None:
        section.take("type", one_of("ModelEMA"))
        decay = section.take("decay", number, decay)
        warmup = section.take("warmups", whole(), warmup)
        section.only("start", 0, why="EMA starts with the first step")
        section.finish()
    return {"ema_decay": decay, "ema_warmup": warmup} if is_used else {"ema_decay": 0.0, "ema_warmup": 0}


def checked(root: Section, kind: Any, values: dict[str, Any]) -> Any:
    """Return a configuration with these values.

    Raises:
        ConfigError: a value is out of range; the message names the file.
    """
    try:
        return kind(**values)
    except ConfigError as error:
        raise root.error(str(error)) from None
