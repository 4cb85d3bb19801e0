"""The table of formats: unsupported options are refused before anything is read, and the docs have the same table."""

from pathlib import Path

import pytest

from rtdetr.errors import ConfigError
from rtdetr.export import EngineOptions, ExportOptions, export, formats
from rtdetr.export.formats import FORMATS, OPTIONS, complete
from rtdetr.exported_files import ENDINGS, ending, exported_format

DOCS = Path(__file__).parents[2] / "docs"
GIVEN = {
    "opset": 18,
    "gather_only": True,
    "preprocess": True,
    "nms_iou": 0.0,
    "compiled": True,
    "engine": EngineOptions(),
}


def test_the_functions_that_the_table_names_exist() -> None:
    room = Path(formats.__file__).parent
    for form in FORMATS.values():
        for name in filter(None, (form.writer, form.int8_writer, form.load)):
            module, _, function = name.rpartition(".")
            place = room / module.replace(".", "/")
            source = (place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).read_text(encoding="utf-8")
            assert function in source, name


def completed(path: str, **values):
    return complete(ExportOptions(**values), Path(path), has_images=True)


def test_every_format_has_an_extension_and_every_option_exists() -> None:
    assert set(FORMATS) == set(ENDINGS)
    assert set(OPTIONS) == set(GIVEN) and set(OPTIONS) <= set(ExportOptions.model_fields)
    assert [exported_format(f"a/model{ending(format).upper()}") for format in FORMATS] == list(FORMATS)
    assert exported_format("model.ort") == "onnx" and exported_format("model.pth") is None


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_accepted_or_refused_by_name(format, name) -> None:
    if name in FORMATS[format].takes:
        assert getattr(completed(f"model{ending(format)}", **{name: GIVEN[name]}), name) == GIVEN[name]
        return
    with pytest.raises(ConfigError, match=rf"{name} \({OPTIONS[name]}\) needs format .*, got format {format}: leave"):
        export("absent.pth", f"model{ending(format)}", options=ExportOptions(**{name: GIVEN[name]}))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_precisions(format, precision) -> None:
    form = FORMATS[format]
    if precision in form.precisions or (precision == "int8" and form.int8_writer):
        assert completed(f"model{ending(format)}", precision=precision).format == format
        return
    with pytest.raises(ConfigError, match=rf"expected fp32.* for format {format}, got {precision!r}"):
        completed(f"model{ending(format)}", precision=precision)


@pytest.mark.parametrize(
    ("path", "format", "message"),
    [
        ("model.tflite", None, r"model\.tflite: expected a name ending in \.onnx, \.xml, \.engine or \.pt2"),
        ("model.pt", "torch", r"expected a name ending in \.pt2 for format torch$"),
        (
            "model.xml",
            "onnx",
            r"expected a name ending in \.onnx for format onnx; the extension of model\.xml is that of format openvino",
        ),
        ("model.ort", None, r"expected a name ending in \.onnx for format onnx$"),
    ],
)
def test_file_names_with_an_unknown_or_other_format(path, format, message) -> None:
    with pytest.raises(ConfigError, match=message):
        completed(path, format=format)


def test_the_docs_have_the_same_table() -> None:
    text = (DOCS / "export.md").read_text(encoding="utf-8")
    for format, form in FORMATS.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{format}` |"))
        _, _, file, precisions, flags, runs_in, _ = (cell.strip() for cell in row.split("|"))
        assert file.startswith(f"`{ending(format)}`") and runs_in == form.runs_in
        known = [*form.precisions, *(["int8"] if form.int8_writer else [])]
        assert precisions == ", ".join(known)
        assert flags == ", ".join(f"`{flag}`" for name in form.takes for flag in OPTIONS[name].split(", "))
