"""The README's commands and Python snippets run as they stand, with weights served from a folder."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rtdetr import zoo
from rtdetr.models import build_model

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("rtdetr ")]


def make_dataset(folder: Path) -> None:
    """Two images to train on and one to evaluate, with ids that are neither contiguous nor start at 0."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        images, annotations = [], []
        (folder / "images" / split).mkdir(parents=True)
        for i in range(1, count + 1):
            pixels = rng.integers(0, 255, (120, 160, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / split / f"{i}.jpg")
            images.append({"id": i, "file_name": f"{i}.jpg", "width": 160, "height": 120})
            box = {"bbox": [10, 20, 50, 40], "area": 2000, "iscrowd": 0}
            annotations.append({"id": i, "image_id": i, "category_id": 7, **box})
        categories = [{"id": 7, "name": "cat"}, {"id": 40, "name": "mug"}]
        (folder / "annotations").mkdir(exist_ok=True)
        file = folder / "annotations" / f"{split}.json"
        file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with a photo, a dataset and a mirror that serves the published file of r18vd."""
    folder = tmp_path_factory.mktemp("readme")
    checkpoint = next(iter(zoo.entry("rtdetrv2_r18vd").checkpoints.values()))
    mirror = folder / "mirror"
    mirror.mkdir()
    torch.manual_seed(0)
    torch.save({"ema": {"module": build_model("rtdetrv2_r18vd").state_dict()}}, mirror / checkpoint.filename)
    work = folder / "work"
    work.mkdir()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (90, 130, 3), dtype=np.uint8)).save(work / "photo.jpg")
    make_dataset(work / "dataset")
    environment = {**os.environ, "RTDETR_CACHE": str(folder / "cache"), "RTDETR_WEIGHTS_URL": mirror.as_uri()}
    return work, environment


def execute(arguments: list[str], place: tuple[Path, dict[str, str]]) -> str:
    folder, environment = place
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_readme_names_the_make_targets_and_has_snippets() -> None:
    text = README.read_text()
    assert "make demo" in text and "make test" in text
    assert len(commands()) >= 7 and len(blocks("python")) >= 2


@pytest.mark.slow
def test_commands(place: tuple[Path, dict[str, str]]) -> None:
    for command in commands():
        execute([sys.executable, "-m", "rtdetr", *shlex.split(command)[1:]], place)
    folder = place[0]
    results = "detections/photo.jpg", "detections.json", "run/best.pth", "run/learning_curve.png", "annotated/1.jpg"
    for written in results:
        assert (folder / written).is_file(), written
    first, back = (
        torch.load(path, weights_only=True)["ema"]["module"]
        for path in (next((folder.parent / "mirror").iterdir()), folder / "rtdetrv2_r18vd.pth")
    )
    learned = [key for key in first if not re.search("anchors|valid_mask|num_points_scale|num_batches_tracked", key)]
    assert all(torch.equal(first[key], back[key]) for key in learned)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python(number: int, place: tuple[Path, dict[str, str]]) -> None:
    execute([sys.executable, "-W", "error::UserWarning", "-c", blocks("python")[number]], place)
