"""Does what docs/extending.md says about an augmentation, with the code of the page."""

import sys

import numpy as np
import torch
from PIL import Image

from rtdetr import zoo
from rtdetr.data import TrainLoader, open_dataset
from tests.data.doctor_files import write
from tests.extending.test_dataset_format import blocks


def test_it_is_trained_with_and_seeded_with_each_sample(tmp_path, monkeypatch):
    function, use = blocks("Add an augmentation")
    (tmp_path / "slit.py").write_text(function)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    root = write(tmp_path / "boxes")
    for file in (root / "images").glob("*/*.jpg"):  # white images: a black band is the augmentation's
        Image.fromarray(np.full((64, 96, 3), 255, np.uint8)).save(file)
    names = {}
    exec(use.replace('output_dir="run"', 'output_dir="run", device="cpu", workers=0'), names)
    assert (tmp_path / "run" / "last.pth").exists()

    recipe = zoo.recipe("test-tiny").replace(batch_size=3)
    dataset = open_dataset(root, split="train")
    runs = [[images for images, _ in TrainLoader(dataset, recipe, transforms=names["Pipeline"]())] for _ in range(2)]
    assert torch.equal(runs[0][0], runs[1][0])
    bands = runs[0][0].amax(dim=(1, 3)) < 0.5
    assert 0 < bands.float().mean() < 0.5
    sys.modules.pop("slit", None)
