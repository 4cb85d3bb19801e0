import pytest

from rtdetr import zoo
from rtdetr.config import Recipe
from rtdetr.data.schedule import largest_size_hw, plan

SIDES = [480, 512, 544, 576, 608, 640, 640, 640, 672, 704, 736, 768, 800]


@pytest.mark.parametrize(
    ("model", "augmentation_stop", "multiscale_stop"),
    [
        ("rtdetrv2_r18vd", 117, 0),
        ("rtdetrv2_r34vd", 117, 117),
        ("rtdetrv2_r50vd_m", 81, 81),
        ("rtdetrv2_r50vd", 71, 71),
        ("rtdetrv2_r34vd_dsp", 10, 10),
        ("rtdetr_r50vd", None, None),
    ],
)
def test_published_schedules(model, augmentation_stop, multiscale_stop):
    recipe = zoo.recipe(model)
    for epoch in range(recipe.epochs):
        epoch_plan = plan(recipe, epoch)
        assert epoch_plan.size_hw == (640, 640)
        assert epoch_plan.strong == (augmentation_stop is None or epoch < augmentation_stop)
        on = multiscale_stop is None or epoch < multiscale_stop
        assert epoch_plan.batch_sizes_hw == (tuple((side, side) for side in SIDES) if on else ((640, 640),))


def test_a_rectangle_keeps_its_proportions_at_other_sizes():
    recipe = Recipe(train_size_hw=(480, 640), multiscale_sizes=(320, 640, 800), multiscale_stop_epoch=1)
    assert plan(recipe, 0).batch_sizes_hw == ((256, 320), (480, 640), (608, 800))
    assert plan(recipe, 1).batch_sizes_hw == ((480, 640),)


def test_deim_schedule():
    recipe = Recipe(
        augmentation_start_epoch=4, augmentation_stop_epoch=58, mosaic=0.5, mixup=0.5, mixing_stop_epoch=34, flip=0.25
    )
    plans = [plan(recipe, epoch) for epoch in range(60)]
    assert [p.strong for p in plans] == [4 <= epoch < 58 for epoch in range(60)]
    for chances in ([p.mosaic for p in plans], [p.mixup for p in plans]):
        assert chances == [0.5 if 4 <= epoch < 34 else 0.0 for epoch in range(60)]
    assert {p.flip for p in plans} == {0.25}


def test_mixing_ends_with_the_augmentation_at_the_latest():
    recipe = Recipe(augmentation_stop_epoch=5, mosaic=0.5)
    assert [plan(recipe, epoch).mosaic for epoch in (0, 4, 5)] == [0.5, 0.5, 0.0]


def test_copy_paste_ends_with_mixing_and_zoom_in_with_the_augmentation():
    recipe = Recipe(
        augmentation_start_epoch=1, mixing_stop_epoch=2, augmentation_stop_epoch=3, copy_paste=0.5, zoom_in=0.25
    )
    plans = [plan(recipe, epoch) for epoch in range(4)]
    assert [(p.copy_paste, p.zoom_in) for p in plans] == [(0, 0), (0.5, 0.25), (0, 0.25), (0, 0)]


def test_the_largest_size_is_found_whatever_the_epoch():
    assert largest_size_hw(Recipe()) == (800, 800)
    assert largest_size_hw(Recipe(multiscale_stop_epoch=0)) == (640, 640)
    assert largest_size_hw(Recipe(multiscale_sizes=(320, 480))) == (640, 640)
