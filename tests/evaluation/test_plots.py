"""Plots are written for any number of classes, with and without objects."""

import warnings

import pytest
from PIL import Image

from rtdetr.errors import InputError
from rtdetr.evaluation import save_plots
from tests.evaluation.scenes import APART, SQUARE, random_scene, scene_report

FILES = ["pr_curve.png", "p_curve.png", "r_curve.png", "f1_curve.png", "confusion_matrix.png", "class_ap.png"]


@pytest.mark.parametrize("num_classes", [1, pytest.param(13, marks=pytest.mark.slow)])
def test_every_plot_is_written(tmp_path, num_classes):
    report = random_scene(tmp_path / "data", seed=0, num_classes=num_classes)
    paths = save_plots(report, tmp_path / "new" / "plots")
    assert [path.name for path in paths] == FILES
    for path in paths:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 150
            assert len(picture.convert("RGB").getcolors(2**24)) > 20
    assert sorted(path.name for path in (tmp_path / "new" / "plots").iterdir()) == sorted(FILES)


@pytest.mark.parametrize(
    ("images", "found"),
    [([[]], [[]]), ([[("cat", APART)]], [[("dog", APART, 1)]])],
    ids=["nothing", "only another class"],
)
def test_with_nothing_to_show_there_is_no_warning(tmp_path, images, found):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(save_plots(scene_report(tmp_path, images, found), tmp_path / "plots")) == len(FILES)


def test_odd_names_are_shown_as_they_are(tmp_path):
    names = ("_hidden", "5$ to 6$ {x}^", "a name that goes on and on and on, longer than any legend")
    report = scene_report(tmp_path, [[(name, SQUARE) for name in names]], [[(names[0], SQUARE, 0.5)]], names=names)
    assert len(save_plots(report, tmp_path / "plots")) == len(FILES)


def test_an_unwritable_folder(tmp_path):
    report = scene_report(tmp_path, [[("cat", SQUARE)]], [[]])
    (tmp_path / "plots").touch()
    with pytest.raises(InputError, match="cannot write"):
        save_plots(report, tmp_path / "plots")
