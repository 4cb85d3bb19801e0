"""`register()` makes transformers' Auto classes and pipelines use this library's classes; `unregister()` undoes it."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

transformers = pytest.importorskip("transformers")

from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: E402

from rtdetr import zoo  # noqa: E402
from rtdetr.hf import configuration, image_processing, modeling  # noqa: E402
from rtdetr.hf.registration import register, unregister  # noqa: E402
from rtdetr.weights import save_huggingface  # noqa: E402
from tests.hf.models import filled, tiny  # noqa: E402


@pytest.fixture(autouse=True)
def _stock_again() -> Iterator[None]:
    yield
    unregister()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    tiny().save_pretrained(folder)
    image_processing.RTDetrImageProcessor(size={"height": 96, "width": 128}).save_pretrained(folder)
    return folder


def auto(folder: Path) -> list[type]:
    return [
        type(transformers.AutoConfig.from_pretrained(folder)),
        type(transformers.AutoModel.from_pretrained(folder)),
        type(transformers.AutoModelForObjectDetection.from_pretrained(folder)),
        type(transformers.AutoImageProcessor.from_pretrained(folder)),
    ]


STOCK = [
    transformers.RTDetrV2Config,
    transformers.RTDetrV2Model,
    transformers.RTDetrV2ForObjectDetection,
    transformers.RTDetrImageProcessor,
]
OURS = [
    configuration.RTDetrV2Config,
    modeling.RTDetrV2Model,
    modeling.RTDetrV2ForObjectDetection,
    image_processing.RTDetrImageProcessor,
]


def test_register_and_unregister(folder: Path) -> None:
    assert auto(folder) == STOCK
    unregister()  # nothing to undo
    register()
    register()
    assert auto(folder) == OURS
    assert type(transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")) is OURS[3]
    made = transformers.AutoModelForObjectDetection.from_config(configuration.RTDetrV2Config.from_pretrained(folder))
    assert type(made) is OURS[2]
    assert type(transformers.AutoModelForObjectDetection.from_config(transformers.RTDetrV2Config())) is OURS[2]
    kept = copy.copy(CONFIG_MAPPING._extra_content)
    unregister()
    unregister()
    assert auto(folder) == STOCK
    assert set(kept) - set(CONFIG_MAPPING._extra_content) == {"rt_detr_v2", "rtdetr"}


def test_a_model_unsupported_by_transformers(tmp_path: Path) -> None:
    filled(zoo.model_config("test-tiny").replace(decoder={"num_points": (1, 3, 2)})).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="rtdetr"):
        transformers.AutoModelForObjectDetection.from_pretrained(tmp_path)
    register()
    loaded = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path)
    assert type(loaded) is OURS[2] and list(loaded.config.decoder_n_points) == [1, 3, 2]


def test_folders_written_by_the_command_line(tmp_path: Path) -> None:
    model = filled(zoo.model_config("test-tiny").replace(num_classes=4)).model.network
    assert save_huggingface(model, tmp_path)  # transformers cannot hold it
    register()
    assert transformers.AutoConfig.from_pretrained(tmp_path).num_labels == 4
    loaded = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path)
    assert type(loaded) is OURS[2] and loaded.config.d_model == 32
    images = torch.rand(1, 3, 64, 64)
    assert torch.allclose(loaded(images).logits, model.eval()(images).logits, atol=1e-5)


def test_pipeline(folder: Path) -> None:
    """The same detections as from the stock classes, on a gray image too."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).resize((150, 100))
    stock = transformers.pipeline("object-detection", model=str(folder), dtype=torch.float64, device="cpu")
    expected = stock(picture, threshold=0.0)
    register()
    detect = transformers.pipeline("object-detection", model=str(folder), dtype=torch.float64, device="cpu")
    assert [type(detect.model), type(detect.image_processor)] == OURS[2:]
    found = detect(picture, threshold=0.0)
    assert len(found) == len(expected) > 0
    for mine, theirs in zip(found[:5], expected[:5], strict=True):
        assert mine["label"] == theirs["label"] and mine["score"] == pytest.approx(theirs["score"], abs=0.01)
        assert set(mine["box"]) == {"xmin", "ymin", "xmax", "ymax"}
        boxes = [other["box"] for other in expected[:20] if other["label"] == mine["label"]]  # ranks may be exchanged
        assert any(all(abs(mine["box"][side] - box[side]) <= 2 for side in box) for box in boxes)
    assert len(detect([picture.convert("L"), picture.convert("RGBA")], threshold=0.0)) == 2


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("fields", [(), ("output_hidden_states", "output_attentions")])
def test_pipeline_of_batches(fields: tuple[str, ...], padded: bool) -> None:
    """Batches larger than the number of maps and layers give what single images give."""
    model = tiny()
    model.set_attn_implementation("eager")
    for name in fields:
        setattr(model.config, name, True)
    size = {"max_height": 96, "max_width": 128} if padded else {"height": 96, "width": 128}
    processor = image_processing.RTDetrImageProcessor(size=size, do_pad=padded, pad_size={"height": 96, "width": 128})
    detect = transformers.pipeline("object-detection", model=model, image_processor=processor)
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (60 + 8 * i, 90, 3), np.uint8)) for i in range(5)]
    alone, together = detect(pictures, threshold=0.0), detect(pictures, threshold=0.0, batch_size=4)
    for first, second in zip(alone, together, strict=True):
        assert len(first) == len(second) == 30
        for one, other in zip(first[:5], second[:5], strict=True):
            assert one["label"] == other["label"] and one["score"] == pytest.approx(other["score"], abs=1e-4)
            assert all(abs(one["box"][side] - other["box"][side]) <= 1 for side in one["box"])
