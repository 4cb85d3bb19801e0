"""Two processes train like one, with the same batches, losses and weights."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from rtdetr.api import train
from rtdetr.errors import LOG_RECORDS_VARIABLE, ConfigError
from rtdetr.models import build_model
from rtdetr.recipes import resolve
from rtdetr.recipes.schedule import set_learning_rate
from rtdetr.runtimes.torch_detector import TorchDetector
from rtdetr.training.distributed import Processes, join, launch, wrap
from rtdetr.training.setup import prepare
from rtdetr.training.step import train_step
from rtdetr.weights import save_weights
from tests.training.small import accuracies, config_of, losses, write_folder

NUM_STEPS = 6
SETTINGS = {
    "model": "test-tiny",
    "recipe": "published",
    "epochs": 20,
    "batch_size": 4,
    "precision": "float32",
    "device": "cpu",
    "workers": 0,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"))


def six_steps(
    data: Path, folder: Path, *, accumulate: int = 1, teacher: Path | None = None, optimizer: str = "adamw"
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and weights of six steps in float64 without denoising and with batch norms in eval mode."""
    folder.mkdir(exist_ok=True)
    recipe = {
        "warmup_iterations": 2,
        "lr": 1e-3,
        "optimizer": optimizer,
        "accumulate": accumulate,
        "sync_batch_norm": False,
    }
    changes = {f"train.{name}": value for name, value in recipe.items()}
    settings = {**SETTINGS, "output_dir": folder, "evaluate_every": 0, "set": changes, "teacher": teacher}
    config, datasets = resolve(str(data), settings)
    with join("cpu") as processes:
        job = prepare(
            config,
            datasets,
            make_detector=lambda model, categories, device: TorchDetector(model, categories, device=device),
            processes=processes,
        )
        model = job.state.model.double()
        job.state.ema.module.double()
        if job.teacher is not None:
            job.teacher.model.double()
        model.decoder.config = model.decoder.config.replace(num_denoising=0)  # its noise follows the local batch
        model.decoder.denoising_class_embed.requires_grad_(False)
        job = dataclasses.replace(job, network=wrap(model, processes, job.device))
        totals = []
        while job.state.progress.iteration < NUM_STEPS:
            job.network.train()
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()
            job.loader.set_epoch(job.state.progress.epoch)
            for images, targets in job.loader:
                set_learning_rate(
                    job.state.optimizer, config.recipe, iteration=job.state.progress.iteration, iterations_per_epoch=3
                )
                totals.append(sum(train_step(job, images.double(), targets).terms.values()))
                job.state.progress.iteration += 1
            job.state.progress.epoch += 1
    return totals, {key: value.detach().clone() for key, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def one_process(data, tmp_path_factory) -> tuple[list[float], dict[str, Tensor]]:
    """What six steps of whole batches give in this process."""
    return six_steps(data, tmp_path_factory.mktemp("one"))


def torchrun(code: str, *arguments: object, num_processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run Python code in several processes."""
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}", "--no-python"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, *start, sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def two_processes(code: str, *arguments: object) -> None:
    """Run Python code as two processes of a run, which torchrun would take seconds to start."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    common = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    common |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    running = [
        subprocess.Popen(command, env={**common, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    try:
        for process in running:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()
            process.communicate()


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest difference of an entry; anchors of border cells, infinite in both, count as equal."""
    assert one.keys() == other.keys()
    return max((one[key].double() - other[key].double()).abs().nan_to_num().max().item() for key in one)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_give_the_losses_and_weights_of_one(data, one_process, tmp_path, optimizer):
    code = (
        "import sys, os, torch; from pathlib import Path; from tests.training.test_distributed import six_steps\n"
        "result = six_steps(Path(sys.argv[1]), Path(sys.argv[2]), optimizer=sys.argv[3])\n"
        "torch.save(result, Path(sys.argv[2]) / f'{os.environ[\"RANK\"]}.pt')"
    )
    two_processes(code, data, tmp_path / "two", optimizer)
    alone = one_process if optimizer == "adamw" else six_steps(data, tmp_path / "one", optimizer=optimizer)
    expected_losses, expected = alone
    for rank in (0, 1):
        totals, weights = torch.load(tmp_path / f"two/{rank}.pt")
        assert totals == pytest.approx(expected_losses, abs=1e-6)
        worst = max(
            (weights[key].double() - value.double()).abs().nan_to_num().max() for key, value in expected.items()
        )
        assert worst < 1e-6
    assert expected_losses[-1] < expected_losses[0]


@pytest.mark.slow
def test_a_teacher_guides_two_processes_and_parts_of_a_batch_as_it_guides_one(data, one_process, tmp_path):
    names = resolve(str(data), {**SETTINGS, "output_dir": tmp_path}).datasets["train"].categories
    teacher = save_weights(build_model("test-tiny", num_classes=len(names)), tmp_path / "t.pth", categories=names)
    code = (
        "import sys, os, torch; from pathlib import Path; from tests.training.test_distributed import six_steps\n"
        "result = six_steps(Path(sys.argv[1]), Path(sys.argv[2]), teacher=sys.argv[3])\n"
        "torch.save(result, Path(sys.argv[2]) / f'{os.environ[\"RANK\"]}.pt')"
    )
    two_processes(code, data, tmp_path / "two", teacher)
    whole_losses, whole = six_steps(data, tmp_path / "one", teacher=teacher)
    parts_losses, parts = six_steps(data, tmp_path / "parts", accumulate=2, teacher=teacher)
    halves_losses, halves = torch.load(tmp_path / "two/1.pt")
    assert halves_losses == pytest.approx(whole_losses, abs=1e-6) and distance(halves, whole) < 1e-6
    assert parts_losses == pytest.approx(whole_losses, abs=1e-9) and distance(parts, whole) < 1e-8
    assert whole_losses[0] > one_process[0][0] + 1e-3


def write_evaluated_statistics(data: Path, folder: Path) -> None:
    """Evaluate in each process after its running statistics went their own way, and write what was evaluated."""
    config, datasets = resolve(str(data), {**SETTINGS, "output_dir": folder, "rehearsal": False})
    with join("cpu") as processes:
        job = prepare(
            config,
            datasets,
            make_detector=lambda model, categories, device: TorchDetector(model, categories, device=device),
            processes=processes,
        )
        statistics = [value for name, value in job.state.ema.module.named_buffers() if name.endswith("running_mean")]
        for value in statistics:
            value += processes.rank
        report = job.evaluate()
        assert (report is None) == (processes.rank > 0)
        found = [value.mean().item() for value in statistics]
        (folder / f"statistics-{processes.rank}.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_every_process_evaluates_the_weights_that_are_saved(data, tmp_path):
    code = "import sys; from pathlib import Path; from tests.training import test_distributed as t; "
    ran = torchrun(code + "t.write_evaluated_statistics(*map(Path, sys.argv[1:]))", data, tmp_path)
    assert ran.returncode == 0, ran.stderr
    first, second = (json.loads((tmp_path / f"statistics-{rank}.json").read_text()) for rank in range(2))
    assert first == second and set(first) == {0.0}


def test_gradient_accumulation_gives_the_same_steps(data, one_process, tmp_path):
    whole_losses, whole = one_process
    parts_losses, parts = six_steps(data, tmp_path / "parts", accumulate=3)
    assert parts_losses == pytest.approx(whole_losses, abs=1e-9)
    assert distance(parts, whole) < 1e-8


@pytest.mark.slow
def test_a_run_of_two_processes_from_the_command_line(data, tmp_path):
    content = json.loads((data / "train/_annotations.coco.json").read_text())
    kept = {image["id"] for image in content["images"][:3]}  # fewer than a batch, which is worked on in parts
    content["images"] = content["images"][:3]
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] in kept]
    few, val = tmp_path / "few.json", data / "valid"
    few.write_text(json.dumps(content))
    command = [sys.executable, "-m", "rtdetr", "train", str(few), "--images", str(data / "train"), "--processes", "2"]
    command += ["--val-data", str(val / "_annotations.coco.json"), "--val-images", str(val), "--epochs", "2"]
    command += ["--output", str(tmp_path / "run"), "--model", "test-tiny", "--batch-size", "4", "--device", "cpu"]
    command += ["--recipe", "published", "--workers", "0", "--set", "train.accumulate=2", "--set", "rehearsal=false"]
    ran = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("finished") == 1
    said = [line for line in ran.stderr.splitlines() if line.startswith(("INFO:", "WARNING:"))]
    assert any("starting from" in line or "warm-up" in line for line in said)
    assert len(said) == len(set(said))
    content = torch.load(tmp_path / "run/last.pth", weights_only=True)
    assert (content["last_epoch"], len(content["rng"])) == (1, 2)
    assert config_of(tmp_path / "run")["recipe"]["batch_size"] == 4
    assert [len(numbers) for numbers in accuracies(tmp_path / "run")] == [12, 12]
    assert ran.stderr.count("a curve does not tell what more epochs") == 1 and (tmp_path / "run/outlook.json").exists()
    command = [sys.executable, "-m", "rtdetr", "train", "--resume", str(tmp_path / "run"), "--epochs", "3"]
    ran = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    assert len(torch.load(tmp_path / "run/last.pth", weights_only=True)["rng"]) == 2  # as before
    resumed = train(None, resume=tmp_path / "run", epochs=4)  # by one process
    assert resumed.finished
    assert len(losses(tmp_path / "run")) >= 1


@pytest.mark.slow
def test_an_error_of_all_processes_is_printed_once(tmp_path):
    command = [sys.executable, "-m", "rtdetr", "train", str(tmp_path / "none"), "--model", "test-tiny"]
    command += ["--processes", "2", "--output", str(tmp_path / "run")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("DatasetError: no dataset") and ran.stderr.count("\n") == 1, ran.stderr


@pytest.mark.parametrize(
    ("code", "status", "said"), [(2, 2, ""), (-signal.SIGKILL, 137, "was killed by SIGKILL, as happens when")]
)
def test_how_launched_processes_fail(code, status, said, monkeypatch, capsys):
    failure = ProcessFailure(local_rank=1, pid=1, exitcode=code, error_file="none")

    def run(arguments):
        raise ChildFailedError("train", {1: failure})

    monkeypatch.setattr("torch.distributed.run.run", run)
    monkeypatch.setenv(LOG_RECORDS_VARIABLE, "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(SystemExit) as end:
        launch(1, ["train"])
    assert end.value.code == status and said in capsys.readouterr().err


def test_a_single_process_exchanges_nothing():
    alone = Processes()
    value = torch.tensor([1.0, 2.0])
    assert alone.mean(value) is value
    assert (alone.mean_number(3.5), alone.any(False), alone.any(True)) == (3.5, False, True)
    assert alone.broadcast("z") == "z"
    assert (alone.gather("x"), alone.gather_all("y"), alone.is_main) == (["x"], ["y"], True)


def test_an_invalid_number_of_processes():
    with pytest.raises(ConfigError, match="at least 1"):
        launch(0, [])
    with pytest.raises(ConfigError, match=r"at most \d+ process"):
        launch(100_000, [])


def test_at_most_as_many_processes_as_usable_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)  # as under taskset or Slurm
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="at most 1 process,"):
        launch(2, [])
