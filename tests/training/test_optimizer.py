"""Parameter groups of every published model, and mistakes in recipes."""

import pytest
import torch
from torch import nn

from rtdetr import zoo
from rtdetr.config import ParameterGroup, Recipe
from rtdetr.errors import ConfigError
from rtdetr.models import build_model
from rtdetr.training.optimizer import build_optimizer

# tensors a group, in group order, the rest last; learning rate and weight decay of each
UNDECAYED, DECAYED = 0.0, 1e-4
PUBLISHED = {
    "rtdetrv2_r18vd": [(162, 1e-4, UNDECAYED), (164, 1e-4, DECAYED)],
    "rtdetrv2_r18vd_sp1": [(162, 1e-4, UNDECAYED), (164, 1e-4, DECAYED)],
    "rtdetrv2_r18vd_sp2": [(162, 1e-4, UNDECAYED), (164, 1e-4, DECAYED)],
    "rtdetrv2_r18vd_sp3": [(162, 1e-4, UNDECAYED), (164, 1e-4, DECAYED)],
    "rtdetrv2_r18vd_dsp": [(162, 1e-4, UNDECAYED), (158, 1e-4, DECAYED)],
    "rtdetrv2_r18vd_dsp1": [(162, 1e-4, UNDECAYED), (158, 1e-4, DECAYED)],
    "rtdetrv2_r34vd": [(39, 5e-5, DECAYED), (78, 5e-5, UNDECAYED), (181, 1e-4, UNDECAYED), (106, 1e-4, DECAYED)],
    "rtdetrv2_r34vd_dsp": [(39, 5e-5, DECAYED), (78, 5e-5, UNDECAYED), (177, 1e-4, UNDECAYED), (102, 1e-4, DECAYED)],
    "rtdetrv2_r50vd": [(52, 1e-5, DECAYED), (126, 1e-4, UNDECAYED), (209, 1e-4, DECAYED)],
    "rtdetrv2_r50vd_dsp": [(52, 1e-5, DECAYED), (126, 1e-4, UNDECAYED), (197, 1e-4, DECAYED)],
    "rtdetrv2_r50vd_m": [(52, 1e-5, DECAYED), (134, 1e-4, UNDECAYED), (213, 1e-4, DECAYED)],
    "rtdetrv2_r50vd_m_dsp": [(52, 1e-5, DECAYED), (134, 1e-4, UNDECAYED), (201, 1e-4, DECAYED)],
    "rtdetrv2_r101vd": [(103, 1e-6, DECAYED), (126, 1e-4, UNDECAYED), (209, 1e-4, DECAYED)],
    "rtdetrv2_hgnetv2_l": [(75, 5e-6, DECAYED), (126, 1e-4, UNDECAYED), (209, 1e-4, DECAYED)],
    "rtdetrv2_hgnetv2_x": [(125, 1e-6, DECAYED), (126, 1e-4, UNDECAYED), (209, 1e-4, DECAYED)],
    "rtdetrv2_hgnetv2_h": [(169, 5e-6, DECAYED), (130, 1e-4, UNDECAYED), (217, 1e-4, DECAYED)],
    "rtdetr_r18vd": [(46, 1e-5, UNDECAYED), (23, 1e-5, DECAYED), (159, 1e-4, UNDECAYED), (98, 1e-4, DECAYED)],
    "rtdetr_r34vd": [(78, 1e-5, UNDECAYED), (39, 1e-5, DECAYED), (177, 1e-4, UNDECAYED), (110, 1e-4, DECAYED)],
    "rtdetr_r50vd": [(52, 1e-5, DECAYED), (0, 1e-5, UNDECAYED), (205, 1e-4, UNDECAYED), (130, 1e-4, DECAYED)],
    "rtdetr_r50vd_m": [(52, 1e-5, DECAYED), (213, 1e-4, UNDECAYED), (134, 1e-4, DECAYED)],
    "rtdetr_r101vd": [(103, 1e-6, DECAYED), (118, 1e-4, UNDECAYED), (217, 1e-4, DECAYED)],
}


def build_on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return build_model(name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_groups(name):
    model = build_on_meta(name)
    groups = build_optimizer(model, zoo.recipe(name)).param_groups
    assert [(len(g["params"]), g["lr"], g["weight_decay"]) for g in groups] == PUBLISHED[name]
    assert all(g["betas"] == (0.9, 0.999) and g["eps"] == 1e-8 and g["initial_lr"] == g["lr"] for g in groups)


@pytest.mark.parametrize("name", zoo.list_models())
def test_groups_hold_every_trainable_parameter_once_in_model_order(name):
    model = build_on_meta(name)
    order = {id(p): i for i, p in enumerate(model.parameters()) if p.requires_grad}
    groups = [
        [order[id(p)] for p in group["params"]] for group in build_optimizer(model, zoo.recipe(name)).param_groups
    ]
    assert sorted(index for group in groups for index in group) == sorted(order.values())
    assert all(group == sorted(group) for group in groups)


def test_every_published_model_is_in_the_table():
    assert set(PUBLISHED) == {name for name in zoo.list_models() if name.startswith(("rtdetrv2_", "rtdetr_"))}


def test_frozen_parameters_are_omitted():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    (rest,) = build_optimizer(model, Recipe()).param_groups
    assert [id(p) for p in rest["params"]] == [id(p) for p in model[1].parameters()]


def test_overlapping_patterns_name_the_parameter():
    recipe = Recipe(groups=(ParameterGroup(pattern="weight"), ParameterGroup(pattern="^1")))
    with pytest.raises(ConfigError, match=r"'1\.weight'.*'weight'.*'\^1'"):
        build_optimizer(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), recipe)


@pytest.mark.parametrize(
    ("size", "backbone_lr"), [("r18vd", 2e-4), ("r34vd", 1e-4), ("r50vd_m", 2e-5), ("r50vd", 2e-5), ("r101vd", 2e-6)]
)
def test_deim_trains_every_norm_at_the_base_rate_without_decay(size, backbone_lr):
    name = f"deim_rtdetrv2_{size}"
    model = build_on_meta(name)
    found = {
        id(p): (g["lr"], g["weight_decay"])
        for g in build_optimizer(model, zoo.recipe(name)).param_groups
        for p in g["params"]
    }
    for parameter_name, parameter in model.named_parameters():
        is_norm = "norm" in parameter_name or "bn" in parameter_name
        lr = backbone_lr if parameter_name.startswith("backbone.") and not is_norm else 2e-4
        assert found[id(parameter)] == (lr, 0.0 if is_norm else DECAYED), parameter_name


def test_an_invalid_pattern_is_named():
    with pytest.raises(ConfigError, match=r"'\(bn'.*regular expression"):
        build_optimizer(nn.Linear(2, 2), Recipe(groups=(ParameterGroup(pattern="(bn"),)))


def test_zero_weight_decay_of_a_group_is_kept():
    groups = build_optimizer(
        nn.Linear(2, 2), Recipe(groups=(ParameterGroup(pattern="bias", weight_decay=0.0, lr=1.0),))
    )
    assert [(g["lr"], g["weight_decay"]) for g in groups.param_groups] == [(1.0, 0.0), (1e-4, 1e-4)]


@pytest.mark.parametrize("name", ["test-tiny", "rtdetr_r101vd", "deim_rtdetrv2_r50vd", "rtdetrv2_hgnetv2_l"])
def test_grouping_by_modules_finds_every_norm_bias_and_embedding(name):
    with torch.device("meta"):
        model = build_model(name)
    groups = build_optimizer(model, Recipe(grouping="modules", backbone_lr=1e-5)).param_groups
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(1e-5, 1e-4), (1e-5, 0), (1e-4, 1e-4), (1e-4, 0)]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    members = [[names[id(parameter)] for parameter in group["params"]] for group in groups]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(name for group in members for name in group) == sorted(trained)
    assert all(name.startswith("backbone.") == (index < 2) for index in range(4) for name in members[index])
    decayed = dict(model.named_parameters())
    assert all(decayed[name].ndim > 1 and name.endswith("weight") for name in members[0] + members[2])
    assert [name for name in members[1] + members[3] if decayed[name].ndim > 1] == [
        "decoder.denoising_class_embed.weight"
    ]
    if name == "rtdetr_r101vd":  # the ones that the published pattern misses
        assert {"encoder.input_proj.0.1.weight", "decoder.enc_output.1.weight"} <= set(members[3])
