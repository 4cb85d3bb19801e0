"""Models saved for Hugging Face and loaded by stock transformers compute what they compute here."""

from pathlib import Path

import pytest
import torch

from rtdetr import zoo
from rtdetr.models import RTDETR, build_model
from rtdetr.weights import load_model, save_huggingface
from tests.parity.fill import fill, image

transformers = pytest.importorskip("transformers")

SQUARE, RECTANGLE = (640, 640), (480, 800)
# every published model that transformers can hold; DEIM's are not among them
NAMES = [name for name in zoo.list_models() if name.startswith(("rtdetrv2_", "rtdetr_"))]
FAMILIES = ("rtdetrv2_r18vd_dsp", "rtdetrv2_r18vd_sp1", "rtdetrv2_r50vd_m", "rtdetr_r18vd")


@pytest.fixture(autouse=True)
def _quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def filled(name: str) -> RTDETR:
    """A model whose evaluated layer is the last one, as it always is in transformers."""
    model = build_model(zoo.model_config(name).replace(decoder={"eval_idx": -1})).eval()
    fill(model)
    for key, value in model.state_dict().items():
        if key.endswith("branch2c.norm.weight"):
            value *= 0.2  # else the maps of 33 residual blocks grow until all queries are alike
    return model


def saved_and_loaded(model: RTDETR, folder: Path) -> torch.nn.Module:
    """The stock model of the saved folder; nothing may be missing, left over or of another shape."""
    assert save_huggingface(model, folder) == []
    kind = {"v1": transformers.RTDetrForObjectDetection, "v2": transformers.RTDetrV2ForObjectDetection}
    loaded, report = kind[model.config.version].from_pretrained(folder, output_loading_info=True, local_files_only=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return loaded.eval()


def outputs(ours: RTDETR, theirs: torch.nn.Module, size_hw: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and boxes of both models side by side, (b, q, k + 4), on the same image."""
    images = image(*size_hw).to(next(ours.parameters()).dtype)
    with torch.inference_mode():
        got, expected = ours(images), theirs(images)
    assert got.logits.std(1).mean() > 0.02  # queries differ from each other: equality means something
    return (
        torch.cat([got.logits, got.boxes_cxcywh], dim=-1),
        torch.cat([expected.logits, expected.pred_boxes], dim=-1),
    )


def compare(ours: RTDETR, theirs: torch.nn.Module, size_hw: tuple[int, int]) -> None:
    """Same logits and boxes, query by query."""
    got, expected = outputs(ours, theirs, size_hw)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def r18(tmp_path_factory: pytest.TempPathFactory) -> tuple[RTDETR, torch.nn.Module]:
    """Ours and the stock model of its folder, in float32."""
    ours = filled("rtdetrv2_r18vd")
    return ours, saved_and_loaded(ours, tmp_path_factory.mktemp("r18"))


@pytest.mark.parametrize("size_hw", [pytest.param(SQUARE, marks=pytest.mark.slow), RECTANGLE])
def test_equal_outputs_float32(r18: tuple[RTDETR, torch.nn.Module], size_hw: tuple[int, int]) -> None:
    """Same queries; two of nearly equal score may stand in the other order."""
    got, expected = outputs(*r18, size_hw)
    equal = (got[0, :, None] - expected[0, None]).abs().amax(-1) < 5e-4  # (q, q)
    near = torch.eye(300).bool()
    near |= near.roll(1, 0) | near.roll(-1, 0)
    assert (equal & near).any(0).all() and (equal & near).any(1).all()
    assert equal.diagonal().float().mean() > 0.95


# float64: rounding neither swaps queries of nearly equal score nor moves discrete sampling points. What remains comes
# from constants that transformers computes in float32.
@pytest.mark.parametrize("name", FAMILIES)
def test_equal_outputs_small(name: str, tmp_path: Path) -> None:
    ours = filled(name)
    theirs = saved_and_loaded(ours, tmp_path)
    compare(ours.double(), theirs.double(), (96, 160))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_equal_outputs_float64(name: str, tmp_path: Path) -> None:
    ours = filled(name)
    theirs = saved_and_loaded(ours, tmp_path)
    ours, theirs = ours.double(), theirs.double()
    compare(ours, theirs, SQUARE)
    compare(ours, theirs, RECTANGLE)


def test_note_about_the_evaluated_layer(tmp_path: Path) -> None:
    """rtdetrv2_r50vd_m is evaluated at its third layer, for which transformers has no field."""
    model = build_model("rtdetrv2_r50vd_m", num_classes=2)
    notes = save_huggingface(model, tmp_path)
    assert notes == ["transformers returns the result of decoder layer 6, but this model is evaluated at layer 3"]
    assert load_model(tmp_path)[0].config.decoder.eval_idx == 2  # our own description keeps it
