"""Changing a recipe: dependent values change together, and an error suggests the nearest name."""

import pytest

from rtdetr import zoo
from rtdetr.config import LossConfig, ParameterGroup, Recipe
from rtdetr.errors import ConfigError
from rtdetr.recipes.changes import change, parse_assignments


def test_without_arguments_nothing_changes():
    recipe = zoo.recipe("deim_rtdetrv2_r50vd")
    assert change(recipe, {}) == recipe


@pytest.mark.parametrize(("epochs", "stop"), [(30, 29), (72, 71), (100, 99), (1, 0)])
def test_augmentation_stops_the_same_number_of_epochs_before_the_end(epochs, stop):
    recipe = change(Recipe(), {"epochs": epochs})
    assert (recipe.epochs, recipe.augmentation_stop_epoch, recipe.multiscale_stop_epoch) == (epochs, stop, stop)


def test_augmentation_that_never_stops_is_unchanged():
    recipe = change(zoo.recipe("rtdetr_r50vd"), {"epochs": 10})
    assert (recipe.epochs, recipe.augmentation_stop_epoch, recipe.multiscale_stop_epoch) == (10, None, None)


def test_flat_epochs_scale_with_the_length():
    assert change(zoo.recipe("deim_rtdetrv2_r50vd"), {"epochs": 30}).flat_epochs == 17  # 34 of 60


def test_multiscale_follows_the_size():
    recipe = change(Recipe(), {"train_size_hw": (320, 320)})
    assert recipe.train_size_hw == (320, 320)
    assert set(recipe.multiscale_sizes) == {256, 288, 320, 352, 384}
    assert recipe.multiscale_sizes.count(320) >= 3
    assert change(Recipe(), {"train_size_hw": (640, 384)}).multiscale_sizes == Recipe().multiscale_sizes


@pytest.mark.parametrize("size_hw", [(600, 640), (0, 0), (16, 16)])
def test_an_unsupported_size(size_hw):
    with pytest.raises(ConfigError, match=r"multiples of 32, got \d+x\d+"):
        change(Recipe(), {"train_size_hw": size_hw})


def test_rates_of_groups_follow():
    groups = (ParameterGroup(pattern="a", lr=1e-5), ParameterGroup(pattern="b"))
    recipe = change(Recipe(lr=1e-4, groups=groups), {"lr": 4e-4})
    assert recipe.lr == 4e-4
    assert recipe.groups[0].lr == pytest.approx(4e-5)
    assert recipe.groups[1].lr is None


def test_another_optimizer_has_other_rates():
    adamw = Recipe(
        lr=1e-4, backbone_lr=1e-5, groups=(ParameterGroup(pattern="x", lr=2e-5), ParameterGroup(pattern="y"))
    )
    muon = change(adamw, {"optimizer": "muon"})
    assert (muon.lr, muon.backbone_lr) == pytest.approx((12e-4, 12e-5))
    assert (muon.groups[0].lr, muon.groups[1].lr) == (pytest.approx(24e-5), None)
    back = change(muon, {"optimizer": "adamw"})
    assert (back.lr, back.backbone_lr, back.groups[0].lr) == pytest.approx((1e-4, 1e-5, 2e-5))
    assert change(muon, {"optimizer": "muon"}) == muon
    given = change(adamw, {"optimizer": "muon", "lr": 2e-4})
    assert (given.lr, given.backbone_lr, given.groups[0].lr) == pytest.approx((2e-4, 2e-5, 4e-5))


@pytest.mark.parametrize("nested", [False, True])
def test_another_class_loss_has_its_published_values(nested):
    def changed(recipe: Recipe, **loss: object) -> LossConfig:
        values = {"loss": loss} if nested else {f"loss.{name}": value for name, value in loss.items()}
        return change(recipe, values).loss

    short = Recipe(loss=LossConfig(classification="mal", gamma=1.0, classification_weight=2.0))
    assert changed(short, classification="vfl") == LossConfig()
    assert changed(short, classification="mal") == short.loss
    assert changed(Recipe(), classification="mal") == zoo.recipe("deim_rtdetrv2_r18vd").loss
    assert changed(short, classification="focal", gamma=3.0).gamma == 3.0


def test_given_values_win_over_dependent_ones():
    recipe = change(Recipe(), {"milestones": "[7]", "epochs": "10", "lr": 1e-3, "backbone_lr": 1e-6})
    assert (recipe.epochs, recipe.milestones, recipe.backbone_lr) == (10, (7,), 1e-6)
    assert recipe.augmentation_stop_epoch == 9


def test_text_values_are_read_as_yaml():
    text = {"lr": "2e-4", "warmup_iterations": "50", "augmentation_stop_epoch": "null", "loss.bbox_weight": "4"}
    text["groups"] = "[{pattern: backbone, lr: 1e-5}]"
    text["multiscale_sizes"] = "[]"
    recipe = change(Recipe(), text)
    assert (recipe.lr, recipe.warmup_iterations, recipe.augmentation_stop_epoch) == (2e-4, 50, None)
    assert recipe.loss == Recipe().loss.replace(bbox_weight=4.0)
    assert (recipe.groups, recipe.multiscale_sizes) == ((ParameterGroup(pattern="backbone", lr=1e-5),), ())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("warmup_iteration", 5, "'warmup_iteration'.*Did you mean 'warmup_iterations'"),
        ("loss.bbox_wieght", 5, "'bbox_wieght'.*Did you mean 'bbox_weight'"),
        ("lr", "fast", "lr.*'fast'"),
        ("lr", "-1", "lr"),
        ("copy_paste", "1.5", "copy_paste.*1"),
        ("zoom_in", "-0.1", "zoom_in.*0"),
        ("repeats", "0", "repeats.*0"),
        ("loss.gamma.x", "1", "gamma"),
        ("groups", "[a", "groups.*is not a valid value"),
    ],
)
def test_mistakes_are_named(name, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        change(Recipe(), {name: value})
    assert "\n" not in str(caught.value)


def test_assignments_of_the_command_line():
    assert parse_assignments(["a=1", "b.c = x=y"]) == {"a": "1", "b.c": " x=y"}
    for wrong in ("lr", "=3"):
        with pytest.raises(ConfigError, match="NAME=VALUE"):
            parse_assignments([wrong])
