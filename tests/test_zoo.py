"""The published configurations, by the names they are published under."""

from pathlib import Path

import pytest

from rtdetr import zoo
from rtdetr.errors import WeightsError
from rtdetr.weights import read_checkpoint

# name -> epochs, end of augmentation, end of multi-scale (0: there is none), batch, weights it starts from
PUBLISHED = {
    "rtdetrv2_r18vd_120e_coco": (120, 117, 0, 16, None),
    "rtdetrv2_r18vd_120e_voc": (120, 117, 0, 32, None),
    "rtdetrv2_r18vd_sp1_120e_coco": (120, 117, 0, 16, None),
    "rtdetrv2_r18vd_sp2_120e_coco": (120, 117, 0, 16, None),
    "rtdetrv2_r18vd_sp3_120e_coco": (120, 117, 0, 16, None),
    "rtdetrv2_r18vd_dsp_3x_coco": (36, 33, 0, 16, "rtdetrv2_r18vd:coco_v0.1"),
    "rtdetrv2_r18vd_dsp1_1x_coco": (12, 10, 0, 16, "rtdetrv2_r18vd_sp1"),
    "rtdetrv2_r18vd_dsp1_120e_coco": (120, 117, 0, 16, None),
    "rtdetrv2_r34vd_120e_coco": (120, 117, 117, 16, None),
    "rtdetrv2_r34vd_dsp_1x_coco": (12, 10, 10, 16, "rtdetrv2_r34vd"),
    "rtdetrv2_r50vd_m_7x_coco": (84, 81, 81, 16, None),
    "rtdetrv2_r50vd_m_dsp_3x_coco": (36, 33, 33, 16, "rtdetrv2_r50vd_m"),
    "rtdetrv2_r50vd_6x_coco": (72, 71, 71, 16, None),
    "rtdetrv2_r50vd_dsp_1x_coco": (12, 10, 10, 16, "rtdetrv2_r50vd"),
    "rtdetrv2_r101vd_6x_coco": (72, 71, 71, 16, None),
    "rtdetrv2_hgnetv2_l_6x_coco": (72, 71, 71, 16, None),
    "rtdetrv2_hgnetv2_x_6x_coco": (72, 71, 71, 16, None),
    "rtdetrv2_hgnetv2_h_6x_coco": (72, 71, 71, 16, None),
    "rtdetr_r18vd_6x_coco": (72, None, None, 16, None),
    "rtdetr_r34vd_6x_coco": (72, None, None, 16, None),
    "rtdetr_r50vd_m_6x_coco": (72, None, None, 16, None),
    "rtdetr_r50vd_6x_coco": (72, None, None, 16, None),
    "rtdetr_r101vd_6x_coco": (72, None, None, 16, None),
    "deim_rtdetrv2_r18vd": (120, 117, 117, 16, None),
    "deim_rtdetrv2_r34vd": (120, 117, 117, 16, None),
    "deim_rtdetrv2_r50vd_m": (60, 58, 58, 16, None),
    "deim_rtdetrv2_r50vd": (60, 58, 58, 16, None),
    "deim_rtdetrv2_r101vd": (60, 58, 58, 16, None),
}
BACKBONE_RATES = {"r34vd": 5e-5, "r50vd_m": 1e-5, "r50vd": 1e-5, "r101vd": 1e-6}
BACKBONE_RATES |= {"hgnetv2_l": 5e-6, "hgnetv2_x": 1e-6, "hgnetv2_h": 5e-6}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes(name):
    recipe = zoo.recipe(name)
    multiscale_end = recipe.multiscale_stop_epoch if recipe.multiscale_sizes else 0
    found = (recipe.epochs, recipe.augmentation_stop_epoch, multiscale_end, recipe.batch_size, recipe.tuning_from)
    assert found == PUBLISHED[name]
    assert recipe.clip_max_norm == 0.1 and recipe.weight_decay == 1e-4 and recipe.warmup_iterations == 2000
    assert (recipe.ema_decay, recipe.ema_warmup) == (0.9999, 2000)


@pytest.mark.parametrize("size", BACKBONE_RATES)
def test_backbone_rates(size):
    rates = {group.lr for group in zoo.recipe(f"rtdetrv2_{size}").groups if group.lr is not None}
    assert rates == {BACKBONE_RATES[size]}
    if size in ("r34vd", "r50vd_m", "r50vd", "r101vd"):
        deim = {group.lr for group in zoo.recipe(f"deim_rtdetrv2_{size}").groups if group.lr is not None}
        assert deim == {2 * BACKBONE_RATES[size]}


def test_deim_uses_mosaic_and_mixup_from_epoch_4_to_the_end_of_the_flat_rate():
    recipe = zoo.recipe("deim_rtdetrv2_r34vd")
    assert (recipe.augmentation_start_epoch, recipe.mixing_stop_epoch, recipe.flat_epochs) == (4, 64, 64)
    assert (recipe.mosaic, recipe.mixup, recipe.lr) == (0.5, 0.5, 2e-4)
    assert (recipe.loss.classification, recipe.loss.gamma, recipe.final_lr_factor) == ("mal", 1.5, 0.5)


def test_backbone_weights_are_those_of_the_backbone():
    assert zoo.backbone_url(zoo.model_config("rtdetr_r50vd")).endswith("ResNet50_vd_ssld_v2_pretrained_from_paddle.pth")
    assert zoo.backbone_url(zoo.model_config("rtdetrv2_hgnetv2_h")).endswith(
        "PPHGNetV2_H_ssld_pretrained_from_paddle.pth"
    )
    assert zoo.backbone_url(zoo.model_config("test-tiny")) is None


# AP and AP50 as published, and the file, for every name that is new to the zoo
FILES = {
    "rtdetrv2_r18vd:objects365": (49.0, 66.5, "rtdetrv2_r18vd_5x_coco_objects365_from_paddle.pth"),
    "rtdetrv2_r50vd:objects365": (55.2, 73.4, "rtdetrv2_r50vd_2x_coco_objects365_from_paddle.pth"),
    "rtdetrv2_r101vd:objects365": (56.2, 74.5, "rtdetrv2_r101vd_2x_coco_objects365_from_paddle.pth"),
    "rtdetrv2_r18vd_dsp1": (46.3, 63.9, "rtdetrv2_r18vd_dsp1_1x_coco.pth"),
    "rtdetrv2_r18vd_dsp1_1x_coco": (46.3, 63.9, "rtdetrv2_r18vd_dsp1_1x_coco.pth"),
    "rtdetrv2_r18vd_dsp1:coco_120e": (45.5, 63.0, "rtdetrv2_r18vd_dsp1_120e_coco.pth"),
    "rtdetrv2_r18vd_dsp1_120e_coco": (45.5, 63.0, "rtdetrv2_r18vd_dsp1_120e_coco.pth"),
}


@pytest.mark.parametrize("typed", FILES)
def test_a_name_stands_for_one_file(typed, monkeypatch, tmp_path):
    """What `rtdetr.load` looks for is the file that the table says, at the address of the publisher's release."""
    monkeypatch.setenv("RTDETR_CACHE", str(tmp_path))
    monkeypatch.setenv("RTDETR_OFFLINE", "1")
    ap, ap50, file = FILES[typed]
    name, _, tag = typed.partition(":")
    checkpoint = zoo.entry(name).checkpoints[tag or str(zoo.tag(name))]
    assert (checkpoint.ap, checkpoint.ap50, checkpoint.filename) == (ap, ap50, file)
    with pytest.raises(WeightsError, match=f"Download {zoo.RELEASES}v0.1/{file} by other means"):
        read_checkpoint(typed)


def test_every_file_has_one_name_to_type():
    pairs = [(name, tag) for name in zoo.list_models() for tag in zoo.entry(name).checkpoints]
    typed = [zoo.full_name(*pair) for pair in pairs]
    others = [alias for pair in pairs for alias in zoo.aliases(*pair)]
    assert len({*typed, *others}) == len(typed) + len(others)
    assert {"rtdetrv2_r18vd_120e_voc"} == set(zoo.ALIASES) - set(others)  # a recipe without weights
    page = (Path(__file__).parents[1] / "docs" / "models.md").read_text()
    assert all(page.count(f"\n| `{name}` |") == 1 for name in typed)
