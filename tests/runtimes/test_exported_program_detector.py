"""`.pt2` files: torch.export programs give the detections of ONNX; other files are refused before they run code."""

import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import rtdetr
from rtdetr.errors import ConfigError, WeightsError
from rtdetr.models import postprocess
from rtdetr.runtimes.exported_program_detector import ExportedProgramDetector
from rtdetr.runtimes.onnx_detector import OnnxDetector
from rtdetr.runtimes.options import LoadOptions
from tests.runtimes.graphs import CLASSES, QUERIES, SIZE, make_metadata, save_graph
from tests.runtimes.test_onnx_detector import PICTURES


class MeanColor(nn.Module):
    """The network of `graphs.py`."""

    def __init__(self, raw: bool) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        for name, columns, scale in (("score", QUERIES * CLASSES, 4), ("box", QUERIES * 4, 2)):
            weight = rng.normal(size=(3, columns), scale=scale).astype(np.float32)
            self.register_buffer(name, torch.from_numpy(weight))
        self.raw = raw

    def forward(self, images, orig_target_sizes=None):
        color = images.mean((2, 3))
        logits = (color @ self.score).unflatten(1, (QUERIES, CLASSES))
        boxes = (color @ self.box).sigmoid().unflatten(1, (QUERIES, 4))
        if self.raw:
            return logits, boxes
        labels, boxes, scores = postprocess(logits, boxes, sizes_wh=orig_target_sizes, max_detections=QUERIES)
        return {"scores": scores, "labels": labels, "boxes": boxes}


def save_program(path, metadata, *, described=True, compiled=False):
    raw = metadata.postprocess == "raw"
    free = metadata.dynamic_batch
    examples = torch.rand(2 if free else 1, 3, SIZE, SIZE), torch.ones(2 if free else 1, 2, dtype=torch.int64)
    batch = torch.export.Dim("b", min=1, max=64)
    shapes = ({0: batch}, {0: batch}) if free else (None, None)
    number = 1 if raw else 2
    program = torch.export.export(MeanColor(raw), examples[:number], dynamic_shapes=shapes[:number], strict=False)
    text = metadata.to_json()
    if compiled:
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs={"aot_inductor.metadata": {"rtdetr": text}}
        )
    else:
        torch.export.save(program, path, extra_files={"rtdetr": text} if described else None)
    return path


@pytest.mark.parametrize("changes", [{}, {"dynamic_batch": True}, {"postprocess": "raw"}])
def test_programs(tmp_path, changes):
    check(tmp_path, make_metadata(**changes), compiled=False)


@pytest.mark.parametrize("names", [("bolt", "nut"), ("bolt", "nut", "washer", "pin")])
def test_a_description_with_another_number_of_classes(tmp_path, names):
    metadata = make_metadata(postprocess="raw", names=names, category_ids=tuple(range(len(names))))
    detector = rtdetr.load(save_program(tmp_path / "model.pt2", metadata))
    with pytest.raises(WeightsError, match=rf"{len(names)} classes\) .* has 3 classes: the file is damaged"):
        detector(PICTURES[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_packages(tmp_path):
    check(tmp_path, make_metadata(dynamic_batch=True), compiled=True)


def check(folder, metadata, *, compiled):
    detector = rtdetr.load(save_program(folder / "model.pt2", metadata, compiled=compiled))
    kind = "AOTInductor" if compiled else "torch.export"
    assert detector.description == f"mean-color (3 classes) in float32 on cpu ({kind}) at 64x64"
    other = OnnxDetector(save_graph(folder / "model.onnx", metadata), LoadOptions(num_threads=1))
    results = detector(PICTURES, threshold=0.01, batch_size=3)
    for found, pixels in zip(results, PICTURES, strict=True):
        expected = other(pixels, threshold=0.01)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-3)
        assert found.image_size_wh == expected.image_size_wh
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        rtdetr.load(folder / "model.pt2", device="gpu")
    with pytest.raises(ConfigError, match="no device 'cuda' on this machine"):
        ExportedProgramDetector(folder / "model.pt2", LoadOptions(device="cuda"))
    with pytest.raises(ConfigError, match="runs only in this precision"):
        ExportedProgramDetector(folder / "model.pt2", LoadOptions(precision="bfloat16"))


def test_files_that_are_not_models(tmp_path):
    path = tmp_path / "model.pt2"
    whole = save_program(path, make_metadata()).read_bytes()
    for content in (b"random bytes" * 40, whole[:300], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"model\.pt2 (cannot be read by|was not exported by)"):
            rtdetr.load(path)
    with pytest.raises(WeightsError, match=r"no such torch\.export file"):
        rtdetr.load(tmp_path / "none.pt2")
    save_program(path, make_metadata(), described=False)
    with pytest.raises(WeightsError, match="was not exported by rtdetr"):
        rtdetr.load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/extra/rtdetr", make_metadata().to_json())
    with pytest.raises(WeightsError, match=r"cannot be read by torch\.export"):
        rtdetr.load(path)
