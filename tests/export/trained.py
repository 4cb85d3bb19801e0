"""A tiny network overfitted to a few images, so that its detections are confident and well separated.

Accuracy is never tested with random weights: their scores are nearly equal, and any rounding changes the ranking.
"""

import copy
import functools

import numpy as np
import torch
from PIL import Image, ImageDraw

from rtdetr.categories import Categories, Category
from rtdetr.losses import build_criterion
from rtdetr.models import RTDETR, build_model
from rtdetr.preprocessing import preprocess
from rtdetr.runtimes.torch_detector import TorchDetector

CATEGORIES = Categories([Category(3, "disk"), Category(7, "square"), Category(9, "bar")])
SIZE = 96
STEPS = 300  # with 200, a fourth detection may come close to 0.5


def sample_images(count: int = 3) -> tuple[list[Image.Image], list[dict[str, torch.Tensor]]]:
    """Draw images that are rectangles, with three objects each, and their targets."""
    images, targets = [], []
    for number in range(count):
        rng = np.random.default_rng(number)
        image = Image.new("RGB", (120, 80), tuple(int(v) for v in rng.integers(60, 160, 3)))
        pen, boxes = ImageDraw.Draw(image), []
        for label in range(3):
            x, y = 40 * label + rng.uniform(2, 10), rng.uniform(5, 40)
            wide, high = rng.uniform(18, 28), rng.uniform(18, 34)
            corners = (x, y, x + wide, y + (high if label < 2 else 10))
            color = [(220, 40, 40), (230, 220, 30), (30, 60, 230)][label]
            (pen.ellipse if label == 0 else pen.rectangle)(corners, fill=color)
            boxes.append(corners)
        corners = torch.tensor(boxes) / torch.tensor([120, 80, 120, 80])
        low, high = corners[:, :2], corners[:, 2:]
        images.append(image)
        targets.append({"labels": torch.arange(3), "boxes": torch.cat([(low + high) / 2, high - low], 1)})
    return images, targets


def trained_model() -> RTDETR:
    """A copy, so that no test changes the network of another."""
    return copy.deepcopy(_train())


@functools.cache
def _train() -> RTDETR:
    """Train test-tiny on `sample_images()`, half a minute; in float64, so that machines agree on the result."""
    before = torch.get_rng_state()
    torch.manual_seed(0)
    model = build_model("test-tiny", num_classes=3, eval_size_hw=(SIZE, SIZE), num_denoising=20).double()
    images, targets = sample_images()
    batch = torch.from_numpy(np.stack([preprocess(image, (SIZE, SIZE)) for image in images])).double()
    criterion = build_criterion("test-tiny")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS)
    for _ in range(STEPS):
        loss = sum(criterion(model(batch, targets), targets).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        schedule.step()
    for module in model.modules():  # with a batch of three the running statistics lag far behind
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        model(batch, targets)
    torch.set_rng_state(before)
    return model.float().eval()


def trained_detector() -> TorchDetector:
    """The float32 reference."""
    return TorchDetector(trained_model(), CATEGORIES, device="cpu", precision="float32")
