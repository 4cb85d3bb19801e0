"""Names in figures use font families with their characters, without warnings by matplotlib (errors in tests)."""

import json

import numpy as np
import pytest
from matplotlib import ft2font
from matplotlib.figure import Figure
from PIL import Image

from rtdetr.evaluation import save_plots
from rtdetr.fonts.figure import figure_names
from rtdetr.fonts.text import LEFT_TO_RIGHT
from rtdetr.reports.statistics import write_statistics
from tests.evaluation.scenes import SQUARE, scene_dataset, scene_report
from tests.fonts.conftest import REAL_FONTS, write_font
from tests.fonts.test_text import ASIAN, EUROPEAN_AND_SEMITIC

shapes = pytest.mark.skipif(not hasattr(ft2font, "__libraqm_version__"), reason="matplotlib joins letters from 3.11 on")


def written(names, path, *, font=None):
    """What matplotlib writes of names, as pixels."""
    shown, families = figure_names(names, font=font)
    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    axes.set_yticks(range(len(shown)), shown, fontfamily=families)
    figure.savefig(path)
    return np.asarray(Image.open(path).convert("L"))


def test_names_use_a_font_with_their_characters(machine, tmp_path):
    before = written(["class 0"], tmp_path / "a.png")
    write_font(machine / "Han.ttf", "人犬", family="Made Up Han")
    font = write_font(tmp_path / "mine.ttf", "ก", family="Mine")
    names, families = figure_names(["人犬 cat", "ก"], font=font)
    assert names == ("人犬 cat", "ก")
    assert families == ["Mine", "sans-serif", "Made Up Han"]
    assert (written(["人犬"], tmp_path / "b.png") != before).any()


def test_names_that_cannot_be_written_are_numbered_with_one_warning(machine, tmp_path, caplog):
    names = ["cat", "人", "$5", "_x", "собака"]
    for _ in range(2):
        assert figure_names(names).names == ("cat", "class 1", r"\$5", " _x", "собака")
    written(names, tmp_path / "a.png")
    assert len(caplog.records) == 1 and "fonts-noto-cjk" in caplog.text
    assert figure_names(["人.pth"], stand_in="model").names == ("model 0",)


def test_long_names_are_shortened():
    assert figure_names(["x" * 24, "y" * 25]).names == ("x" * 24, "y" * 21 + "...")


def test_names_do_not_become_formulas():
    assert figure_names(["a $1  and\n $2"]).names == (r"a \$1 and \$2",)


def test_scripts_that_need_shaping_require_a_newer_matplotlib(machine, caplog, monkeypatch):
    monkeypatch.delattr(ft2font, "__libraqm_version__", raising=False)
    assert figure_names(["שלום", "собака"]).names == ("class 0", "собака")
    assert "3.11" in caplog.text


@shapes
def test_right_to_left_names_keep_notes_on_the_right(machine):
    assert figure_names(["חתול" * 9]).names == (f"{LEFT_TO_RIGHT}{('חתול' * 9)[:21]}...{LEFT_TO_RIGHT}",)


def test_every_plot_of_names_without_a_font_is_written(machine, tmp_path):
    names = ("人 قطة", "猫", "_$1")
    report = scene_report(tmp_path, [[(name, SQUARE) for name in names]], [[(names[0], SQUARE, 0.5)]], names=names)
    assert len(save_plots(report, tmp_path / "plots")) == 6


@pytest.mark.parametrize("count", [2, 40])  # bars and ranks
def test_label_statistics_of_names_without_a_font_are_written(machine, tmp_path, count):
    names = tuple(f"{chr(0x4E00 + i)} قطة" for i in range(count))
    dataset = scene_dataset(tmp_path, [[(name, SQUARE) for name in names]], names=names)
    write_statistics(tmp_path, {"train": dataset}, size_hw=(64, 64))
    found = json.loads((tmp_path / "label_statistics.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in found["train"]["classes"]] == list(names)


@pytest.mark.slow
@shapes
def test_every_plot_in_the_scripts_of_the_world(real_fonts, tmp_path):
    names = (*EUROPEAN_AND_SEMITIC.values(), *ASIAN.values())
    if any(name.startswith("class ") for name in figure_names(names).names):
        assert not REAL_FONTS.is_dir()
        pytest.skip("no font for some script here: make .venv/fonts")
    report = scene_report(tmp_path, [[(name, SQUARE) for name in names]], [[(names[0], SQUARE, 0.5)]], names=names)
    assert len(save_plots(report, tmp_path / "plots")) == 6
