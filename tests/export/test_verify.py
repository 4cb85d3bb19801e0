"""The check of an exported model: which detections count as equal, and that a wrong model is refused."""

import copy
import importlib
import io
import json
import re

import numpy as np
import onnx
import pytest
import rich.console
import torch

from rtdetr.categories import Categories, Category
from rtdetr.detections import Detections
from rtdetr.errors import DatasetError, ExportError, InputError, WeightsError
from rtdetr.export import ExportOptions, export
from rtdetr.export.agreement import Tolerance, compare
from rtdetr.export.built_in_images import built_in_images
from rtdetr.export.stages import first_diverging
from rtdetr.export.verify import _TIMED_RUNS, TOLERANCES, _latency_ms, int8_tolerance, verify
from rtdetr.images import read_image
from rtdetr.models import build_model
from rtdetr.runtimes.torch_detector import TorchDetector
from tests.export.trained import sample_images, trained_model

NAMES = ("a", "b")
EXACT = TOLERANCES["fp32"]
LOOSE = TOLERANCES["fp16"]


def detections(*rows) -> Detections:
    """Rows of (x1, y1, x2, y2, score, label)."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(int), NAMES, (100, 100))


FIRST, SECOND = (10, 10, 50, 50, 0.9, 0), (60, 60, 90, 95, 0.6, 1)


def test_the_order_of_rows_does_not_matter_and_equal_sets_match() -> None:
    twins = [(10, 10, 50, 50, 0.8, 0), (10, 10, 50, 50, 0.8, 0), SECOND]
    agreement = compare([detections(*twins)], [detections(*twins[::-1])], threshold=0.3, tolerance=EXACT)
    assert agreement.num_matched == agreement.num_pairs == 3
    assert agreement.matched_share == 1 and agreement.lowest_iou == 1 and agreement.largest_score_difference == 0


@pytest.mark.parametrize(
    ("found", "counts"),  # pairs, matched, missed, extra
    [
        ([FIRST], (1, 1, 1, 0)),
        ([FIRST, SECOND, (0, 0, 5, 5, 0.7, 1)], (2, 2, 0, 1)),
        ([FIRST, (60, 60, 90, 95, 0.6, 0)], (1, 1, 1, 1)),  # another class
        ([FIRST, (60, 60, 90, 95, 0.63, 1)], (2, 1, 0, 0)),  # another score
        ([FIRST, (60, 60, 90, 93, 0.6, 1)], (2, 1, 0, 0)),  # another box
        ([FIRST, (75, 60, 105, 95, 0.6, 1)], (1, 1, 1, 1)),  # so far off that it is another object
        ([], (0, 0, 2, 0)),
    ],
)
def test_differences_are_counted(found, counts) -> None:
    agreement = compare([detections(FIRST, SECOND)], [detections(*found)], threshold=0.3, tolerance=LOOSE)
    assert (agreement.num_pairs, agreement.num_matched, agreement.missed, agreement.extra) == counts
    assert agreement.matched_share == counts[1] / (counts[0] + counts[2] + counts[3])
    assert agreement.num_found - agreement.num_reference == agreement.extra - agreement.missed
    assert agreement.num_found == len(found)


@pytest.mark.parametrize(("moved_by", "matches"), [(0.015, 1), (0.03, 0)])
def test_rounding_of_a_box_of_one_pixel_matches_and_more_does_not(moved_by, matches) -> None:
    tiny = (30, 30, 31, 31)
    found = detections((*(x + moved_by for x in tiny), 0.9, 0))  # an IoU of 0.94 and 0.89
    agreement = compare([detections((*tiny, 0.9, 0))], [found], threshold=0.3, tolerance=EXACT)
    assert (agreement.num_pairs, agreement.num_matched) == (1, matches) and agreement.lowest_iou < 0.95


@pytest.mark.parametrize("swapped", [False, True])
def test_a_score_that_falls_just_below_the_threshold_is_not_missed(swapped) -> None:
    sides = [detections((10, 10, 50, 50, 0.31, 0)), detections((10, 10, 50, 50, 0.295, 0))]
    reference, found = sides[::-1] if swapped else sides
    agreement = compare([reference], [found], threshold=0.3, tolerance=LOOSE)
    assert (agreement.num_matched, agreement.missed, agreement.extra) == (1, 0, 0)
    assert (agreement.num_reference, agreement.num_found) == (1, 1)
    alone = compare([reference], [detections()], threshold=0.3, tolerance=LOOSE)
    assert alone.missed == (0 if swapped else 1)


def test_overlapping_boxes_are_paired_correctly() -> None:
    pair = [(10, 10, 50, 50, 0.9, 0), (10, 10, 50, 51, 0.4, 0)]
    moved = [(10, 10, 50, 50.6, 0.9, 0), (10, 10, 50, 50.4, 0.4, 0)]
    agreement = compare([detections(*pair)], [detections(*moved)], threshold=0.3, tolerance=LOOSE)
    assert agreement.largest_score_difference == 0 and agreement.matched_share == 1


def test_one_pixel_boxes_and_boxes_without_area() -> None:
    pixel, flat = (5, 5, 6, 6, 0.9, 0), (7, 7, 7, 9, 0.8, 0)
    assert compare([detections(pixel)], [detections(pixel)], threshold=0.3, tolerance=EXACT).num_matched == 1
    agreement = compare([detections(flat)], [detections(flat)], threshold=0.3, tolerance=EXACT)
    assert (agreement.missed, agreement.extra) == (1, 1)


def test_built_in_images_are_reproducible_and_differ_in_shape() -> None:
    first, second = built_in_images(), built_in_images()
    assert [one.tobytes() for one in first] == [one.tobytes() for one in second]
    assert len({one.size for one in first}) >= 3 and all(one.mode == "RGB" for one in first)


class Fixed:
    """A detector that finds the same in every image."""

    categories = Categories.numbered(2)
    names = NAMES
    size_hw = (64, 64)
    description = "fixed"

    def __init__(self, *rows) -> None:
        self.rows = detections(*rows)

    def __call__(self, source, *, threshold=0.5, size_hw=None, max_detections=300, batch_size=8):
        return self.rows.above(threshold)


NUMBERED = Categories.numbered(2)


class FixedReference(TorchDetector):
    """The same as the reference."""

    def __init__(self, *rows, categories=NUMBERED) -> None:
        super().__init__(build_model("test-tiny", num_classes=2), categories, device="cpu")
        self.rows = detections(*rows)

    def __call__(self, source, **options):
        return self.rows.above(options["threshold"])


@pytest.mark.parametrize(
    ("found", "reason"), [((FIRST, SECOND), None), ((FIRST,), "50.0% of the detections match"), ((), "0.0% of the")]
)
def test_verdict_table_and_json(found, reason) -> None:
    report = verify(Fixed(*found), FixedReference(FIRST, SECOND))
    assert report.passed == (reason is None) and (report.reason or "").startswith(reason or "")
    console = rich.console.Console(width=100, file=io.StringIO(), record=True)
    console.print(report.table())
    assert ("passed" if reason is None else "refused") in console.export_text()
    document = json.loads(json.dumps(report.to_json()))
    assert document["passed"] == report.passed and document["agreement"]["num_reference"] == 2 * report.num_images


@pytest.mark.parametrize(
    ("categories", "reason"),
    [
        (Categories([Category(0, "a"), Category(1, "c")]), "class 1 is .* id 1, expected .* id 1"),
        (Categories([Category(0, "a"), Category(5, "b")]), "class 1 is .* id 5, expected .* id 1"),
        (Categories.numbered(3), "3 classes, expected 2"),
    ],
)
def test_other_class_names_are_refused(categories, reason) -> None:
    reference = FixedReference(FIRST, SECOND, categories=Categories([Category(0, "a"), Category(1, "b")]))
    found = Fixed(FIRST, SECOND)
    found.categories = categories
    report = verify(found, reference)
    assert not report.passed and re.search(reason, report.reason or "")


@pytest.mark.parametrize(
    ("given", "error"), [({"images": ["absent.jpg"]}, InputError), ({"data": "absent"}, DatasetError)]
)
def test_the_inputs_of_the_check_are_read_before_the_export(given, error, tmp_path, monkeypatch) -> None:
    def build(*_, **__):
        raise AssertionError("it was built")

    monkeypatch.setattr(importlib.import_module("rtdetr.export.export"), "writer_of", lambda _: build)
    with pytest.raises(error, match="absent"):
        export(build_model("test-tiny"), tmp_path / "model.onnx", check=True, **given)


@pytest.mark.parametrize("options", [{}, {"format": "openvino"}, {"format": "torch"}, {"precision": "int8"}])
@pytest.mark.parametrize("check", [False, True])
def test_a_model_with_non_finite_output_is_refused_before_the_export(options, check, tmp_path, monkeypatch) -> None:
    def build(*_, **__):
        raise AssertionError("it was built")

    monkeypatch.setattr(importlib.import_module("rtdetr.export.export"), "writer_of", lambda _: build)
    model = build_model("test-tiny", num_classes=2)
    with torch.no_grad():
        model.encoder.input_proj[0].conv.weight.fill_(1e30)  # finite, but what it computes is not
    file = tmp_path / f"model{ {'openvino': '.xml', 'torch': '.pt2'}.get(options.get('format'), '.onnx') }"
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with pytest.raises(ExportError, match=r"nothing was written, .* is not finite: .* its weights are damaged or too"):
        export(model, file, options=ExportOptions(**options), check=check, images=[photo])
    with pytest.raises(ExportError, match="the output of the reference is not finite"):
        verify(Fixed(FIRST), model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.slow), "fp16"])
def test_a_wrong_decoder_is_found_without_confident_detections(precision, tmp_path) -> None:
    model = build_model("test-tiny").eval()
    options = ExportOptions(precision=precision)
    assert export(model, tmp_path / "good.onnx", options=options, check=True).report.is_weak
    for key in ("decoder.decoder.layers.0.linear1.weight", "decoder.dec_score_head.1.weight"):
        wrong = copy.deepcopy(model)
        with torch.no_grad():
            dict(wrong.named_parameters())[key].mul_(5)
        export(wrong, tmp_path / "wrong.onnx", options=options)
        report = verify(tmp_path / "wrong.onnx", model)
        assert not report.passed and (report.diverging or "").startswith(".".join(key.split(".")[:2])), key


@pytest.mark.slow
def test_a_dynamic_batch_is_run_with_several_images(tmp_path) -> None:
    model, file = trained_model(), tmp_path / "model.onnx"
    images = sample_images()[0]
    assert export(model, file, options=ExportOptions(dynamic_batch=True), check=True, images=images).report.passed
    graph = onnx.load(file)
    place, rows = next((i, node) for i, node in enumerate(graph.graph.node) if node.op_type == "Range")
    rows.output[0], name = "rows", rows.output[0]
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0), "nothing"))
    graph.graph.node.insert(place + 1, onnx.helper.make_node("Mul", ["rows", "nothing"], [name]))
    onnx.save(graph, file)  # now every image of a batch reads the first one's rows
    assert not verify(file, model, images=images).passed


def test_dynamic_sizes_are_run_at_another_size() -> None:
    class Free(FixedReference):
        def __call__(self, source, **options):
            return self.rows.above(0.0 if options["size_hw"] == (64, 64) else 0.99)

    assert not verify(Free(FIRST), FixedReference(FIRST)).passed


def test_a_file_that_the_installed_engine_cannot_load_is_deleted(tmp_path, monkeypatch) -> None:
    def load(path, **_):
        raise WeightsError(f"{path} cannot be read")

    monkeypatch.setattr("rtdetr.export.verify.load", load)
    with pytest.raises(ExportError, match=r"not kept: model\.onnx cannot be read\. A lower opset may help"):
        export(build_model("test-tiny"), tmp_path / "model.onnx", check=True)
    assert not list(tmp_path.iterdir())


def test_an_inconclusive_comparison_has_a_note() -> None:
    report = verify(Fixed(), FixedReference())
    assert report.passed and not report.agreement.is_conclusive
    assert "detects nothing at all" in (report.note or "")
    assert not verify(Fixed(FIRST), FixedReference()).passed  # something out of nothing


def test_without_confident_detections_the_strongest_are_compared() -> None:
    faint, other = (10, 10, 50, 50, 0.2, 0), (10, 10, 50, 50, 0.1, 1)
    report = verify(Fixed(faint), FixedReference(faint))
    assert report.passed and report.is_weak and report.agreement.num_matched == report.num_images
    report = verify(Fixed(faint, *[other] * 5), FixedReference(faint, *[other] * 5))
    assert report.threshold == pytest.approx(0.1) and "above 0.1 were compared" in (report.note or "")
    assert report.passed and report.agreement.num_matched == report.num_images
    report = verify(Fixed((60, 10, 90, 50, 0.2, 0), other), FixedReference(faint, other))
    assert not report.passed and "pass images with objects" in (report.reason or "")


def test_the_latency_is_measured_after_a_warm_up_run() -> None:
    class Counting(Fixed):
        calls = 0

        def __call__(self, source, **options):
            self.calls += 1
            return super().__call__(source, **options)

    detector = Counting(FIRST)
    _latency_ms(detector, read_image(built_in_images()[0]), (64, 64))
    assert detector.calls == 1 + _TIMED_RUNS


def test_the_table_has_the_detections_that_were_compared() -> None:
    report = verify(Fixed(FIRST), FixedReference(FIRST, SECOND))
    console = rich.console.Console(width=120, file=io.StringIO(), record=True)
    console.print(report.table())
    rows = [line.replace("│", " ").split() for line in console.export_text().splitlines()]
    count = report.num_images
    assert ["detections", "above", "0.3", "in", "either", str(count), "(of", f"{2 * count})"] in rows
    assert ["missed,", "extra", f"{count},", "0"] in rows


def test_a_model_that_does_not_run_is_refused() -> None:
    class Failing(Fixed):
        def __call__(self, source, **options):
            raise WeightsError("fixed gave NaN")

    report = verify(Failing(), FixedReference(FIRST))
    assert not report.passed and report.reason == "fixed gave NaN" and report.latency_ms is None
    console = rich.console.Console(width=100, file=io.StringIO(), record=True)
    console.print(report.table())
    assert "refused" in console.export_text()


def test_int8_is_judged_by_ap_only() -> None:
    report = verify(Fixed(FIRST), FixedReference(FIRST, SECOND), tolerance=int8_tolerance(0.01))
    assert report.passed and "pass a dataset" in (report.note or "")


def test_images_are_needed_and_read() -> None:
    with pytest.raises(InputError, match="at least one image"):
        verify(Fixed(), FixedReference(), images=[])
    with pytest.raises(InputError, match="no image"):
        verify(Fixed(), FixedReference(), images=["absent.jpg"])
    assert verify(Fixed(FIRST), FixedReference(FIRST), images=[np.zeros((1, 1, 3), np.uint8)]).num_images == 1


def test_the_first_stage_beyond_the_limit_diverges() -> None:
    tolerance = Tolerance(1.0, 0.999, score=0.01, ap_drop=0)
    assert first_diverging({"a": 0.04, "b": 0.06, "c": 0.9}, tolerance) == "b"
    assert first_diverging({"a": float("nan"), "b": 0.0}, tolerance) == "a"
    assert first_diverging({"a": 0.05}, tolerance) is None
