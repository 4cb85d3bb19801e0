"""Recipes by name: which one is used, and that `finetune` is sensible for any number of images."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtdetr import zoo
from rtdetr.categories import COCO80
from rtdetr.config import LossConfig, ModelConfig, Recipe
from rtdetr.errors import ConfigError
from rtdetr.recipes.changes import change
from rtdetr.recipes.named_recipes import deim, finetune, named_recipe, shorten_warmups
from rtdetr.recipes.resolve import DataSummary, configure
from rtdetr.recipes.written import read_written
from tests.training.small import settings_of


@given(
    num_images=st.integers(1, 10**7),
    batch_size=st.none() | st.integers(1, 512),
    epochs=st.none() | st.integers(1, 2000),
    model=st.sampled_from(["rtdetrv2_r18vd", "rtdetrv2_r50vd", "rtdetr_r101vd", "deim_rtdetrv2_r50vd", "test-tiny"]),
)
def test_finetuning_fits_any_data(num_images, batch_size, epochs, model):
    recipe = finetune(zoo.recipe(model), num_images=num_images, batch_size=batch_size, epochs=epochs)
    steps = recipe.epochs * max(num_images // recipe.batch_size, 1)
    assert recipe.warmup_iterations <= max(steps / 10, 1)
    assert 1 / (1 - recipe.ema_decay) <= max(steps / 10, 2.01)
    assert recipe.augmentation_stop_epoch == recipe.multiscale_stop_epoch
    assert 0 < recipe.augmentation_stop_epoch <= recipe.epochs
    assert recipe.epochs == 1 or recipe.augmentation_stop_epoch < recipe.epochs  # the last one is always plain
    assert 0 < recipe.backbone_lr <= recipe.lr < 6e-3
    assert recipe.flat_epochs < recipe.epochs and (batch_size is None or recipe.batch_size == batch_size)


def test_more_images_mean_fewer_epochs_of_more_images():
    amounts = (10, 50, 200, 1000, 5000, 50_000, 500_000)
    recipes = [finetune(Recipe(), num_images=amount) for amount in amounts]
    epochs = [recipe.epochs for recipe in recipes]
    seen = [amount * recipe.epochs for amount, recipe in zip(amounts, recipes, strict=True)]
    assert epochs == sorted(epochs, reverse=True) and seen == sorted(seen)
    assert [recipe.batch_size for recipe in recipes] == [4, 4, 16, 16, 16, 16, 16]
    steps = [recipe.epochs * (amount // recipe.batch_size) for amount, recipe in zip(amounts, recipes, strict=True)]
    assert (steps[1], steps[3], steps[5]) == (2400, 4464, 37_500)


def test_the_rate_follows_the_square_root_of_the_batch():
    rates = [finetune(Recipe(), num_images=10**6, batch_size=b).lr for b in (4, 16, 64)]
    assert [b / a for a, b in itertools.pairwise(rates)] == pytest.approx([2.0, 2.0])
    random = finetune(Recipe(), num_images=1000, random_backbone=True)
    assert random.backbone_lr == random.lr


def test_short_runs_have_a_higher_learning_rate():
    base = Recipe()
    rates = [finetune(base, num_images=16 * steps, batch_size=16, epochs=1).lr for steps in (10, 250, 1250, 20_000)]
    assert rates == pytest.approx([3 * base.lr, 80**0.25 * base.lr, 2 * base.lr, base.lr])


@pytest.mark.parametrize("model", ["rtdetrv2_r18vd", "deim_rtdetrv2_r18vd"])
def test_short_runs_have_another_loss_and_long_ones_the_published(model):
    base = zoo.recipe(model)
    short, long = (finetune(base, num_images=16 * steps, batch_size=16, epochs=1) for steps in (19_999, 20_000))
    assert (long.loss, long.betas) == (base.loss, base.betas)
    assert short.loss == base.loss.replace(classification="mal", gamma=1.0, classification_weight=2.0)
    assert short.betas == (0.9, 0.95)


@pytest.mark.parametrize(
    ("model", "share"),
    [("rtdetrv2_r18vd", 1), ("rtdetrv2_r34vd", 0.5), ("rtdetrv2_r50vd", 0.1), ("rtdetrv2_hgnetv2_h", 0.05)],
)
def test_the_backbone_keeps_its_published_share_of_the_rate(model, share):
    recipe = finetune(zoo.recipe(model), num_images=1000)
    assert recipe.backbone_lr == pytest.approx(share * recipe.lr)


def test_deim_for_any_model():
    assert deim("deim_rtdetrv2_r101vd") == zoo.recipe("deim_rtdetrv2_r101vd")
    own, published = deim("rtdetrv2_hgnetv2_x"), zoo.recipe("deim_rtdetrv2_r50vd")
    assert own.groups[0].lr == pytest.approx(2e-6)
    assert own.replace(groups=published.groups) == published
    assert deim("rtdetr_r18vd").epochs == 120
    for size in ("r18vd", "r34vd_120e_coco", "r50vd_m", "r50vd", "r101vd"):
        assert deim(f"rtdetrv2_{size}") == zoo.recipe(f"deim_rtdetrv2_{size.split('_120e')[0]}")
    assert deim("test-tiny").train_size_hw == (64, 64)
    assert deim("mine", ModelConfig()).grouping == "modules"


def test_deim_fits_short_runs_and_long_ones_are_as_published():
    short = chosen({"model": "rtdetrv2_r18vd", "recipe": "deim"}, num_images=200).recipe  # 120 epochs of 12 steps
    assert (short.warmup_iterations, short.ema_decay, short.ema_warmup) == (72, 1 - 1 / 72, 14)
    published = zoo.recipe("deim_rtdetrv2_r18vd")
    assert short.replace(warmup_iterations=2000, ema_decay=0.9999, ema_warmup=2000) == published
    for model in ("rtdetrv2_r18vd", "deim_rtdetrv2_r18vd"):
        assert chosen({"model": model, "recipe": "deim"}, num_images=118_287).recipe == published
    for exact in ("deim_rtdetrv2_r18vd", "published"):  # by these names, whatever the data
        assert chosen({"model": "deim_rtdetrv2_r18vd", "recipe": exact}, num_images=50).recipe == published
    asked = chosen({"model": "rtdetrv2_r18vd", "recipe": "deim", "epochs": 10, "set": {"train.ema_decay": 0.9}})
    assert (asked.recipe.warmup_iterations, asked.recipe.ema_decay) == (31, 0.9)


def test_scratch_fits_short_runs_and_is_deim_in_long_ones():
    settings = {"model": "rtdetrv2_r18vd", "recipe": "scratch"}
    short, long = (chosen(settings, num_images=count).recipe for count in (200, 118_287))
    assert long == chosen({**settings, "recipe": "deim"}, num_images=118_287).recipe
    deim = chosen({**settings, "recipe": "deim"}, num_images=200).recipe  # 120 epochs of 12 steps
    loss = deim.loss.replace(gamma=1.0, classification_weight=2.0)
    adamw = deim.replace(betas=(0.9, 0.95), loss=loss, multiscale_sizes=())
    assert short == change(adamw, {"optimizer": "muon"}) and short.lr == pytest.approx(12 * deim.lr)
    assert chosen({**settings, "set": {"train.optimizer": "adamw"}}, num_images=200).recipe == adamw
    tiny = chosen(settings, num_images=50).recipe
    assert (tiny.batch_size, tiny.lr, tiny.epochs, tiny.warmup_iterations) == (4, short.lr / 2, 120, 72)
    assert chosen({**settings, "batch_size": 4}, num_images=200).recipe.lr == tiny.lr
    long_muon = chosen({**settings, "set": {"train.optimizer": "muon"}}, num_images=118_287).recipe
    assert long_muon == change(long, {"optimizer": "muon"})
    given = chosen({**settings, "batch_size": 8, "lr": 3e-4, "set": {"train.betas": [0.9, 0.99]}}, num_images=50).recipe
    assert (given.batch_size, given.lr, given.betas, given.loss.gamma) == (8, 3e-4, (0.9, 0.99), 1.0)
    given = chosen({**settings, "batch_size": 8, "epochs": 5000}, num_images=50).recipe  # 30,000 steps
    assert given.loss.gamma == 1.5 and given.betas == (0.9, 0.999) and given.multiscale_sizes


def test_scratch_trains_a_pretrained_backbone_with_adamw_at_its_published_rate():
    settings = {"model": "rtdetrv2_r50vd", "recipe": "scratch"}
    random, pretrained = (
        chosen({**settings, **more}, num_images=200).recipe for more in ({}, {"backbone_weights": "x"})
    )
    deim = chosen({**settings, "recipe": "deim"}, num_images=200).recipe
    assert (pretrained.optimizer, pretrained.lr, pretrained.groups) == ("adamw", deim.lr, deim.groups)
    assert [group.lr for group in deim.groups] == [2e-5, None] and [group.lr for group in random.groups] == [None, None]
    assert (random.optimizer, random.lr) == ("muon", pytest.approx(12 * deim.lr))


def test_recipes_of_a_model_whose_own_recipe_uses_muon():
    found, expected = (
        finetune(base, num_images=1000) for base in (Recipe(optimizer="muon", lr=12e-4), Recipe(lr=1e-4))
    )
    assert (found.optimizer, found.betas) == ("adamw", (0.9, 0.95))
    assert (found.lr, found.backbone_lr) == pytest.approx((expected.lr, expected.backbone_lr))
    demo = chosen({"model": "demo", "recipe": "scratch", "batch_size": 4}, num_images=200).recipe
    assert (demo.optimizer, demo.lr) == ("muon", pytest.approx(zoo.recipe("demo").lr / 2))  # for a quarter of the batch


@pytest.mark.parametrize(
    "changes", [{"lr": 1e-4}, {"set": {"train.backbone_lr": 1e-5}}, {"set": {"train.groups": [{"pattern": "x"}]}}]
)
def test_scratch_uses_adamw_if_a_learning_rate_is_given(changes):
    settings = {"model": "rtdetrv2_r18vd", "recipe": "scratch", **changes}
    assert chosen(settings, num_images=200).recipe.optimizer == "adamw"
    asked = {**settings, "set": {**settings.get("set", {}), "train.optimizer": "muon"}}
    recipe = chosen(asked, num_images=200).recipe
    assert (recipe.optimizer, recipe.lr) == ("muon", settings.get("lr", pytest.approx(24e-4)))


@pytest.mark.parametrize("recipe", ["scratch", "finetune"])
def test_the_loss_of_rtdetrv2_can_be_chosen_for_short_runs(recipe):
    asked = {"model": "rtdetrv2_r18vd", "recipe": recipe, "set": {"train.loss.classification": "vfl"}}
    assert chosen(asked, num_images=50).recipe.loss == LossConfig()


@given(num_images=st.integers(1, 10**7), batch_size=st.integers(1, 512), epochs=st.integers(1, 2000))
def test_warmups_only_shrink(num_images, batch_size, epochs):
    recipe = zoo.recipe("deim_rtdetrv2_r50vd").replace(epochs=epochs, batch_size=batch_size)
    fitted = shorten_warmups(recipe, num_images=num_images)
    steps = epochs * max(num_images // batch_size, 1)
    assert fitted.warmup_iterations <= min(2000, steps / 20 + 0.5) and fitted.ema_decay <= recipe.ema_decay
    assert fitted.ema_warmup <= 2000 and 0 < fitted.ema_decay < 1


def test_a_zoo_name_is_a_recipe():
    assert named_recipe("rtdetrv2_r18vd_120e_voc", "test-tiny").batch_size == 32
    with pytest.raises(ConfigError, match=r"unknown recipe 'publishd'\. Did you mean 'published'"):
        named_recipe("publishd", "test-tiny")


def chosen(settings, names=("cat",), num_images=1000):
    written = read_written("d", {"output_dir": "o", **settings})
    return configure(written, DataSummary(num_images, names))


def test_which_recipe_is_taken():
    weights = {"weights": "rtdetrv2_r50vd"}
    assert chosen({}).recipe_name == chosen({"backbone_weights": "auto"}).recipe_name == "scratch"
    assert chosen({}, COCO80.names, num_images=9).recipe == zoo.recipe("rtdetrv2_r18vd")
    assert chosen({"recipe": "published"}).recipe == zoo.recipe("rtdetrv2_r18vd")
    assert chosen({"model": "rtdetrv2_r50vd_dsp", "weights": "none"}).recipe_name == "scratch"
    assert chosen(weights).recipe_name == "finetune"
    assert chosen(weights, COCO80.names).recipe == zoo.recipe("rtdetrv2_r50vd")
    assert chosen({**weights, "recipe": "published"}).recipe == zoo.recipe("rtdetrv2_r50vd")
    assert chosen({**weights, "recipe": Recipe(epochs=3)}).recipe_name == "own"
    assert chosen({"recipe": "finetune"}).recipe.backbone_lr == chosen({"recipe": "finetune"}).recipe.lr  # from scratch


def test_changes_are_applied_after_the_recipe_is_adapted():
    asked = {
        "weights": "rtdetrv2_r50vd",
        "epochs": 10,
        "batch_size": 4,
        "set": {"train.ema_decay": 0.5, "train.lr": "1e-3"},
    }
    recipe = chosen(asked, num_images=400).recipe
    assert (recipe.epochs, recipe.batch_size, recipe.ema_decay, recipe.lr) == (10, 4, 0.5, 1e-3)
    assert recipe.backbone_lr == pytest.approx(1e-4)  # follows
    assert (recipe.warmup_iterations, recipe.augmentation_stop_epoch) == (50, 8)


def test_finetuning_uses_no_augmentation_that_is_not_asked_for():
    on = {"mosaic": 0.5, "mixup": 0.5, "copy_paste": 0.5, "zoom_in": 0.5, "repeats": 2}
    fitted = finetune(Recipe(**on), num_images=100)
    assert [getattr(fitted, name) for name in on] == [0, 0, 0, 0, 1] == [getattr(Recipe(), name) for name in on]
    asked = {"weights": "rtdetrv2_r50vd", "set": {f"train.{name}": str(value) for name, value in on.items()}}
    recipe = chosen(asked, num_images=400).recipe
    assert {name: getattr(recipe, name) for name in on} == on


def test_a_variant_starts_from_what_it_is_tuned_from():
    assert settings_of("d", {"model": "rtdetrv2_r50vd_dsp", "output_dir": "o"}).weights == "rtdetrv2_r50vd"
    assert settings_of("d", {"model": "rtdetrv2_r50vd_dsp", "output_dir": "o", "weights": "none"}).weights is None
    assert settings_of("d", {"model": "rtdetrv2_r50vd_dsp", "output_dir": "o"}).recipe_name == "published"


def test_a_resumed_run_is_not_adapted_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    config = chosen({"weights": "rtdetrv2_r50vd"}, num_images=50)
    for saved in (config.model_dump(mode="json"), {**config.model_dump(mode="json"), "recipe_changes": None}):
        again = read_written(None, {}, saved=saved)
        assert configure(again) == configure(again, DataSummary(5000, ("cat",))) == config
