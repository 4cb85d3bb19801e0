"""The section "Add a loss" of docs/extending.md."""

from pathlib import Path

import pytest

from tests.extending.own_copy import OwnCopy, blocks

SCRIPT = """
import torch
from rtdetr.config import LossConfig
from rtdetr.losses import build_criterion
from rtdetr.models import build_model

model = build_model("test-tiny", num_classes=3)
targets = [{"labels": torch.tensor([0, 2]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.3], [0.3, 0.4, 0.1, 0.1]])}]
output = model(torch.rand(1, 3, 64, 64), targets)
terms = build_criterion(model.config, loss=LossConfig(classification="soft"))(output, targets)
sum(terms.values()).backward()
assert terms["loss_soft"].isfinite() and "loss_soft_aux_0" in terms
"""


@pytest.mark.slow
def test_loss_and_matcher(tmp_path: Path) -> None:
    loss, field, matcher = blocks("Add a loss")
    copy = OwnCopy(tmp_path)
    file = tmp_path / "rtdetr" / "losses" / "classification.py"
    file.write_text(f"{file.read_text()}\n\n{loss}")
    copy.replace("config.py", '    classification: Literal["vfl", "focal", "mal"] = "vfl"\n', field)
    copy.run(f"{SCRIPT}\n{matcher}\nassert len(criterion(output, targets)) == len(terms)\n")
