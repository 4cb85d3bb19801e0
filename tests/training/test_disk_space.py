"""The size of checkpoints, and messages about missing disk space."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from rtdetr.errors import TrainingError
from rtdetr.models import build_model
from rtdetr.training.disk_space import check_space, checkpoint_bytes
from tests.training.small import only_the_loop, run_tiny, write_folder


def test_the_sizes_are_those_of_the_files(tmp_path):
    with only_the_loop():
        run_tiny(write_folder(tmp_path / "data"), tmp_path / "run", epochs=1)
    model = build_model("test-tiny", num_classes=3)
    for name, resumable in (("last.pth", True), ("best.pth", False)):
        size = (tmp_path / "run" / name).stat().st_size
        assert size == pytest.approx(checkpoint_bytes(model, resumable=resumable), rel=0.2)  # a small network
    model.backbone.requires_grad_(requires_grad=False)
    frozen = sum(one.nbytes for one in model.backbone.parameters())
    whole = checkpoint_bytes(build_model("test-tiny", num_classes=3), resumable=True)
    assert checkpoint_bytes(model, resumable=True) == whole - 2 * frozen


@pytest.mark.parametrize(("share", "said"), [(0.9, None), (1.1, True), (4.1, False)])
def test_disk_space_is_checked_before_the_first_step(tmp_path, monkeypatch, share, said):
    model = torch.nn.Linear(1000, 1000, bias=False)  # 4 MB; a checkpoint has four times as much
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=int(share * 16e6)))
    heard: list[str] = []
    folder = tmp_path / "new" / "run"
    if said is None:
        with pytest.raises(TrainingError, match=r"has 14\.4 MB free, but one checkpoint takes 16\.0 MB\. .*--output"):
            check_space(folder, model, keep=1, say=heard.append)
    else:
        check_space(folder, model, keep=2, say=heard.append)
    assert heard == (
        []
        if not said
        else [
            f"{folder} has 17.6 MB free, but the checkpoints of this run may take 52.0 MB, including one being written"
        ]
    )
    assert not folder.exists()


def test_a_run_without_disk_space_is_refused_before_writing(tmp_path, monkeypatch):
    data = write_folder(tmp_path / "data")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with only_the_loop(), pytest.raises(TrainingError, match=r"1\.0 kB free"):
        run_tiny(data, tmp_path / "run")
    assert not (tmp_path / "run").exists()
