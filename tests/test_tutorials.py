"""The commands and Python blocks of docs/tutorials run, page by page, on a few drawn images and a tiny network."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import typer
import yaml
from PIL import Image

from rtdetr.cli.main import app
from rtdetr.hf import RTDetrImageProcessor
from tests.hf.training_parts import tiny_model
from tests.small_demo import make_small_dataset, make_small_demo

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted((REPOSITORY / "docs" / "tutorials").glob("*.md"))
SMALLER = {  # what the pages say -> what takes seconds
    r"--num-train \d+ --num-val \d+": "--num-train 8 --num-val 4",
    r"--epochs \d+": "--epochs 1",
    r"epochs=\d+": "epochs=1",
    r"--batch-size \d+ --size 640": "--batch-size 4 --size 64",
    r"--rounds \d+": "--rounds 1",
    r"--num-calibration \d+": "--num-calibration 4",
    r"\bPekingU/rtdetr_v2_r18vd\b": "my_model",
    r"\brtdetrv2_r18vd\b": "demo/run/best.pth",
    r"(?<![\w/])(?=examples/\w+[\w/]*\.py)": f"{REPOSITORY}/",
}
# PyTorch warns where a machine has fewer cores than a training has workers
STRICT = ["-W", "error::UserWarning", "-W", "ignore:This DataLoader will create:UserWarning"]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of the blocks of a page that are to be run, in order."""
    return re.findall(r"^```(bash|python)\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def command_lines(text: str) -> list[list[str]]:
    """The words of each command of a bash block, without comments and installations."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line and line[0] not in ("pip", "make")]


def smaller(text: str) -> str:
    for pattern, replacement in SMALLER.items():
        text = re.sub(pattern, lambda _, new=replacement: new, text)
    return text


@pages
def test_options_exist(page):
    commands = [line for language, text in blocks(page) if language == "bash" for line in command_lines(text)]
    assert commands
    for line in commands:
        assert line[0] in ("rtdetr", "python"), f"{line[0]}: this test runs only rtdetr and python"
        command = typer.main.get_command(app)
        words = line[1:] if line[0] == "rtdetr" else []
        while words and hasattr(command, "get_command"):
            group = cast(Any, command)
            command, words = group.get_command(None, words[0]), words[1:]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert [word for word in words if word.startswith("-") and word not in known] == []


@pages
def test_a_page_begins_with_its_task_and_a_command(page):
    lines = page.read_text().splitlines()
    assert lines[0].startswith("# ")
    first = next(number for number, line in enumerate(lines) if line.startswith("```"))
    assert lines[first] == "```bash" and first < 10


def test_every_page_is_in_the_navigation():
    # the site's file also names Python objects, which a safe loader does not make
    text = re.sub(r"!!python\S*", "", (REPOSITORY / "mkdocs.yml").read_text())
    (section,) = (entry["Tutorials"] for entry in yaml.safe_load(text)["nav"] if "Tutorials" in entry)
    listed = {path for entry in section for path in entry.values()}
    assert {f"tutorials/{page.name}" for page in PAGES} <= listed


def write_yolo_labels(folder: Path) -> None:
    """Add a data.yaml and label files to a dataset in COCO form."""
    for split in ("train", "val"):
        content = json.loads((folder / "annotations" / f"{split}.json").read_text())
        names = {row["id"]: (number, row["name"]) for number, row in enumerate(content["categories"])}
        (folder / "labels" / split).mkdir(parents=True)
        for image in content["images"]:
            lines = []
            for row in (row for row in content["annotations"] if row["image_id"] == image["id"]):
                (x, y, w, h), (width, height) = row["bbox"], (image["width"], image["height"])
                box = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
                lines.append(f"{names[row['category_id']][0]} " + " ".join(f"{value:.6f}" for value in box))
            file = Path(image["file_name"]).with_suffix(".txt").name
            (folder / "labels" / split / file).write_text("\n".join(lines))
    classes = dict(names.values())
    document = {"path": ".", "train": "images/train", "val": "images/val", "names": classes}
    (folder / "data.yaml").write_text(yaml.safe_dump(document))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` leaves, in small; beside it images, a dataset in COCO and YOLO form and a folder of weights."""
    folder = tmp_path_factory.mktemp("tutorials")
    make_small_demo(folder / "demo")
    make_small_dataset(folder / "dataset")
    write_yolo_labels(folder / "dataset")
    (folder / "photos").mkdir()
    for name in ("photo.jpg", "photos/a.jpg", "photos/b.jpg"):
        pixels = np.random.default_rng(0).integers(0, 255, (90, 130, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    tiny_model(num_labels=80).save_pretrained(folder / "my_model")
    RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder / "my_model")
    return folder


@pytest.mark.slow
@pages
def test_the_blocks_of_a_page_run(page, sample, tmp_path):
    for source in sample.iterdir():
        (tmp_path / source.name).symlink_to(source)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    for language, text in blocks(page):
        text = smaller(text)
        python = [[sys.executable, *STRICT, "-c", text]]
        for line in python if language == "python" else command_lines(text):
            line = [sys.executable, "-m", "rtdetr", *line[1:]] if line[0] == "rtdetr" else line
            done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, f"{shlex.join(line)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.slow
def test_the_code_of_building_models_prints_what_its_comments_say():
    for language, text in blocks(REPOSITORY / "docs" / "building_models.md"):
        assert language == "python"
        command = [sys.executable, "-W", "error::UserWarning", "-c", text]
        done = subprocess.run(command, check=True, timeout=600, capture_output=True, text=True)
        shapes = re.findall(r"^print\(.*\)  # \(([^)]*)\)", text, flags=re.MULTILINE)
        assert re.findall(r"torch.Size\(\[(.*)\]\)", done.stdout) == shapes
