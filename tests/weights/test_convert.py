"""Conversion in every direction, through the library and the command line."""

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from rtdetr.categories import Categories
from rtdetr.cli.main import app
from rtdetr.errors import ConfigError, WeightsError
from rtdetr.models import build_model
from rtdetr.weights import convert, read_checkpoint, save_weights
from rtdetr.zoo import model_config
from tests.weights.small import assert_same, small

FORMS = {"ours.pth": "rtdetr", "published.pth": "official", "folder": "huggingface", "lone.safetensors": "huggingface"}
BOTTLENECK = {"depth": 50, "blocks": (1, 2, 1, 1), "base_width": 16, "freeze_norm": True}
DEIM = {"activation": "silu", "query_pos_widths": (32, 32)}
MODELS = {
    "v2": small().config,
    "v1": small(version="v1").config,
    "frozen": small(backbone=BOTTLENECK).config,
    "deim": small(decoder=DEIM).config,
    **{name: model_config(name).replace(num_classes=3) for name in ("rtdetrv2_r18vd", "rtdetr_r50vd_m")},
    **{name: model_config(name).replace(num_classes=3) for name in ("rtdetrv2_hgnetv2_l", "deim_rtdetrv2_r18vd")},
}
CASES = [("v2", *pair) for pair in itertools.product(FORMS, FORMS)]
CASES += [(name, "published.pth", form) for name in ("v1", "frozen", "deim") for form in ("folder", "ours.pth")]
PUBLISHED = [pytest.param(name, "published.pth", "folder", marks=pytest.mark.slow) for name in list(MODELS)[4:]]


@pytest.mark.parametrize(("name", "first", "second"), CASES + PUBLISHED)
def test_round_trip_is_bit_equal(name: str, first: str, second: str, tmp_path: Path) -> None:
    """From a model to a file of the first form, to one of the second, and back to ours."""
    model = build_model(MODELS[name])
    classes = Categories.numbered(model.config.num_classes)
    save_weights(model, tmp_path / "start.pth", categories=classes)
    path = tmp_path / "start.pth"
    for step, form in enumerate((first, second)):
        target = tmp_path / str(step) / form
        assert convert(path, target, format=FORMS[form]).format == FORMS[form]
        path = target
    convert(path, tmp_path / "end.pth")
    assert_same(read_checkpoint(tmp_path / "end.pth").state, model.state_dict())
    if "official" not in (FORMS[first], FORMS[second]):  # which says nothing beyond the entries
        weights = read_checkpoint(tmp_path / "end.pth")
        assert weights.config == model.config and weights.categories == classes


def test_types_stay(tmp_path: Path) -> None:
    """16-bit files stay 16-bit, and only constants that were missing are new."""
    convert_source = tmp_path / "x.safetensors"
    model = small()
    save_weights(model, tmp_path / "x.pth")
    convert(tmp_path / "x.pth", convert_source)
    half = {k: v.half() if v.is_floating_point() else v for k, v in load_file(convert_source).items()}
    save_file(half, convert_source)
    convert(convert_source, tmp_path / "y.pth")
    state = read_checkpoint(tmp_path / "y.pth").state
    assert list(state) == list(model.state_dict())
    for key, value in state.items():
        constant = key.endswith(("anchors", "num_points_scale"))
        assert value.dtype == (torch.float32 if constant or not value.is_floating_point() else torch.float16) or (
            not value.is_floating_point()
        )


def test_official_files_contain_nothing_else(tmp_path: Path) -> None:
    save_weights(small(), tmp_path / "x.pth")
    convert(tmp_path / "x.pth", tmp_path / "y.pth", format="official")
    content = torch.load(tmp_path / "y.pth", weights_only=True)
    assert list(content) == ["ema"] and set(content["ema"]) == {"module", "updates"}


def test_limits_of_the_official_format_are_reported(tmp_path: Path) -> None:
    save_weights(small(pixel_std=(0.5, 0.5, 0.25)), tmp_path / "a.pth")
    (note,) = convert(tmp_path / "a.pth", tmp_path / "b.pth", format="official").notes
    assert "subtract 0 and divide by (0.5, 0.5, 0.25)" in note
    assert convert(tmp_path / "a.pth", tmp_path / "c.pth").notes == []


def test_converting_a_file_onto_itself(tmp_path: Path) -> None:
    model = small()
    save_weights(model, tmp_path / "x.pth")
    convert(tmp_path / "x.pth", tmp_path / "x.pth", format="official")
    assert_same(read_checkpoint(tmp_path / "x.pth").state, model.state_dict())


def test_targets_and_formats(tmp_path: Path) -> None:
    save_weights(small(), tmp_path / "x.pth")
    for target, chosen, message in (
        ("x.onnx", None, "cannot tell the format"),
        ("x.pth", "huggingface", "does not match the target"),
        ("folder", "rtdetr", "does not match the target"),
        ("x.safetensors", "official", "does not match the target"),
        ("y.pth", "hugging", "Did you mean 'huggingface'"),
    ):
        with pytest.raises(ConfigError, match=message):
            convert(tmp_path / "x.pth", tmp_path / target, format=chosen)
    with pytest.raises(WeightsError, match="no such file"):
        convert(tmp_path / "z.pth", tmp_path / "y.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["weights", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_command(tmp_path: Path) -> None:
    torch.save({"ema": {"module": build_model("test-tiny").state_dict()}}, tmp_path / "x.pth")
    code, out, _ = run("convert", tmp_path / "x.pth", tmp_path / "y.safetensors")
    assert code == 0 and "entries of test-tiny (v2, 80 classes), format huggingface" in out
    code, out, _ = run("convert", tmp_path / "y.safetensors", tmp_path / "z.pth", "--format", "official")
    assert code == 0 and str(tmp_path / "z.pth") in out
    code, _, error = run("convert", tmp_path / "x.pth", tmp_path / "a.pth", "--model", "demo")
    assert code == 2 and error.startswith("WeightsError: ") and "looks like 'test-tiny'" in error
    assert error.count("\n") == 1 and not (tmp_path / "a.pth").exists()
    code, _, error = run("convert", tmp_path / "x.pth", tmp_path / "a.pth", "--format", "keras")
    assert code == 2 and error.startswith("ConfigError: unknown format 'keras'")


def test_damaged_input_leaves_the_target(tmp_path: Path) -> None:
    save_weights(small(), tmp_path / "y.pth")
    before = (tmp_path / "y.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(before[:5000])
    code, _, error = run("convert", tmp_path / "x.pth", tmp_path / "y.pth")
    assert code == 2 and "damaged" in error and (tmp_path / "y.pth").read_bytes() == before
