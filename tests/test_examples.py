"""The Hugging Face examples run end to end on a few images, in one process and in two."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.coco_files import many_images, write_dataset
from tests.hf.training_parts import tiny_model

REPOSITORY = Path(__file__).parents[1]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
SMALL = ["--epochs=2", "--batch-size=4", "--size=64", "--threshold=0.0"]

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset of noise and a tiny model of other classes."""
    folder = tmp_path_factory.mktemp("examples")
    for seed, (split, count) in enumerate({"train": 10, "val": 5}.items()):  # not multiples of what processes share
        images, annotations = write_dataset(folder / split, many_images(count, seed=seed))
        for found, kept in ((images, f"data/images/{split}"), (annotations, f"data/annotations/{split}.json")):
            (folder / kept).parent.mkdir(parents=True, exist_ok=True)
            found.rename(folder / kept)
    tiny_model(num_labels=4).save_pretrained(folder / "model")
    return folder


def run(arguments: list[str], folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.parametrize("launcher", [[], TORCHRUN], ids=["one process", "two processes"])
def test_trainer(place: Path, launcher: list[str]) -> None:
    output = f"trainer{len(launcher)}"
    script = str(REPOSITORY / "examples" / "hf_trainer.py")
    printed = run([*launcher, script, "data", "--model=model", f"--output={output}", *SMALL], place)
    found = re.findall(r"AP (\d\.\d{4}), AP50 (\d\.\d{4}), loss (\d+\.\d+)", printed)
    assert len(found) == 1 and all(float(number) >= 0 for number in found[0])
    assert "30 objects in 1.png" in printed
    states = [json.loads(file.read_text()) for file in (place / output).glob("checkpoint-*/trainer_state.json")]
    assert {state["global_step"] for state in states} == {3, 6}  # four images a step, over all processes
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert (place / output / name).is_file(), name


@pytest.mark.parametrize("launcher", [[], TORCHRUN], ids=["one process", "two processes"])
def test_accelerate(place: Path, launcher: list[str]) -> None:
    output = f"accelerate{len(launcher)}"
    script = str(REPOSITORY / "examples" / "hf_accelerate.py")
    printed = run([*launcher, script, "data", "--model=model", f"--output={output}", *SMALL], place)
    epochs = re.findall(r"^epoch (\d): loss (\d+\.\d+), AP (\d\.\d+), AP50", printed, flags=re.MULTILINE)
    assert [epoch for epoch, *_ in epochs] == ["1", "2"]
    assert f"training in {2 if launcher else 1} process" in printed
    assert "30 objects in 1.png" in printed
    weights = load_file(place / output / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values() if value.is_floating_point())
