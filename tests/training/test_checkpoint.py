"""Checkpoints: everything is restored, files are never half-written, and foreign ones are refused."""

import random
import resource
import signal
from typing import Literal

import numpy as np
import pytest
import torch

from rtdetr.config import Recipe
from rtdetr.errors import ConfigError, TrainingError, WeightsError
from rtdetr.models import build_model
from rtdetr.random_state import random_state
from rtdetr.reports.progress import Progress
from rtdetr.training.checkpoint import TrainingState, read, save_best, save_last
from rtdetr.training.ema import ModelEMA
from rtdetr.training.optimizer import build_optimizer
from rtdetr.training.resume import restore
from rtdetr.weights import load_model, metadata
from rtdetr.weights.official import read_pth
from tests.weights.small import assert_same


def make_state(
    *, num_classes: int = 3, channels_last: bool = False, seed: int = 0, optimizer: Literal["adamw", "muon"] = "adamw"
) -> TrainingState:
    torch.manual_seed(seed)
    model = build_model("test-tiny", num_classes=num_classes, num_denoising=0)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    return TrainingState(
        model=model,
        ema=ModelEMA(model),
        optimizer=build_optimizer(model, Recipe(lr=1e-3, optimizer=optimizer)),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        progress=Progress(batches_per_epoch=5),
    )


def step(state: TrainingState) -> None:
    """One step on gradients that follow from the number of the step."""
    generator = torch.Generator().manual_seed(state.progress.iteration)
    for parameter in state.model.parameters():
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
    state.optimizer.step()
    state.ema.update(state.model)
    state.progress.batch += 1
    state.progress.iteration += 1


def entries(state: TrainingState) -> dict[str, torch.Tensor]:
    return {**state.model.state_dict(), **{f"ema.{k}": v for k, v in state.ema.module.state_dict().items()}}


def save(path, state):
    save_last(path, state, metadata=metadata(state.model.config, None), rng=[random_state()])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("layouts", [(False, False), (True, False), (False, True)])
def test_resuming_equals_an_uninterrupted_run_in_any_memory_layout(tmp_path, layouts, optimizer):
    state = make_state(channels_last=layouts[0], optimizer=optimizer)
    for _ in range(2):
        step(state)
    save(tmp_path / "last.pth", state)
    again = make_state(channels_last=layouts[1], seed=1, optimizer=optimizer)
    restore(read(tmp_path), again)
    assert again.progress == state.progress
    assert again.ema.updates == 2
    for _ in range(2):
        step(state)
        step(again)
    for (key, value), other in zip(entries(state).items(), entries(again).values(), strict=True):
        assert torch.equal(value, other), key


def test_random_generators_are_restored(tmp_path):
    state = make_state()
    random.seed(3)
    np.random.seed(4)
    np.random.standard_normal()  # keeps the second one of a pair
    torch.manual_seed(5)
    save(tmp_path / "last.pth", state)
    restore(read(tmp_path / "last.pth"), state)  # beartype has drawn from Python's generator since
    expected = random.random(), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()
    restore(read(tmp_path / "last.pth"), state)
    assert (random.random(), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()) == expected


def test_the_layout_is_the_published_one_and_holds_plain_data_only(tmp_path):
    state = make_state()
    step(state)
    state.progress.epoch = 4
    save(tmp_path / "last.pth", state)
    content = torch.load(tmp_path / "last.pth", weights_only=True)
    assert {"date", "last_epoch", "model", "ema", "optimizer", "scaler"} <= set(content)
    assert (content["last_epoch"], content["ema"]["updates"]) == (3, 1)
    assert list(content["ema"]["module"]) == list(state.model.state_dict())


def test_best_pth_has_only_the_average_and_can_be_loaded(tmp_path):
    state = make_state()
    step(state)
    save_best(tmp_path / "best.pth", state, metadata=metadata(state.model.config, None))
    save(tmp_path / "last.pth", state)
    assert (tmp_path / "best.pth").stat().st_size * 3 < (tmp_path / "last.pth").stat().st_size
    for name in ("best.pth", "last.pth"):
        model, categories = load_model(tmp_path / name)
        assert len(categories) == 3
        assert torch.equal(model.decoder.enc_output[0].weight, state.ema.module.decoder.enc_output[0].weight)
    with pytest.raises(WeightsError, match=r"'model', 'optimizer'.*last\.pth"):
        read(tmp_path / "best.pth")


def test_published_checkpoints_are_resumed_after_their_last_epoch(tmp_path):
    state = make_state()
    step(state)
    content = {"date": "", "last_epoch": 6, "model": state.model.state_dict(), "ema": state.ema.state_dict()}
    content |= {"optimizer": state.optimizer.state_dict(), "lr_scheduler": {"milestones": [1000]}}
    torch.save(content, tmp_path / "last.pth")
    again = make_state(seed=1)
    restore(read(tmp_path), again)
    assert again.progress == Progress(batches_per_epoch=5, epoch=7, iteration=35)
    assert all(group["lr"] == 1e-3 and group["fused"] for group in again.optimizer.param_groups)


def test_names_with_prefixes_and_files_without_average_are_resumed(tmp_path, caplog):
    state = make_state()
    step(state)
    wrapped = {f"module.{key}": value for key, value in state.model.state_dict().items()}
    averaged = {f"module.{key}": value for key, value in state.ema.module.state_dict().items()}
    content = {"last_epoch": 6, "model": wrapped, "optimizer": state.optimizer.state_dict()}
    torch.save({**content, "ema": {"module": averaged, "updates": 1}}, tmp_path / "last.pth")
    again = make_state(seed=1)
    restore(read(tmp_path), again)
    assert again.ema.updates == 1 and not caplog.records
    for ours, theirs in ((again.model, state.model), (again.ema.module, state.ema.module)):
        assert_same(ours.state_dict(), theirs.state_dict())
    torch.save({**content, "ema": None}, tmp_path / "last.pth")
    again = make_state(seed=1)
    restore(read(tmp_path), again)
    assert again.ema.updates == 0 and "the checkpoint has no EMA weights" in caplog.text
    assert_same(again.ema.module.state_dict(), state.model.state_dict())
    caplog.clear()
    again.ema.decay = 0.0  # none is wanted
    restore(read(tmp_path), again)
    assert not caplog.records


def test_a_full_disk_leaves_the_old_file(tmp_path):
    state = make_state()
    save(tmp_path / "last.pth", state)
    before = (tmp_path / "last.pth").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"cannot write .*last\.pth"):
            save(tmp_path / "last.pth", state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)
    assert (tmp_path / "last.pth").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]


def test_damaged_missing_and_foreign_files(tmp_path):
    state = make_state()
    save(tmp_path / "last.pth", state)
    content = read(tmp_path)
    (tmp_path / "half.pth").write_bytes((tmp_path / "last.pth").read_bytes()[:50_000])
    for path in (tmp_path / "half.pth", tmp_path / "none.pth", tmp_path / "none"):
        with pytest.raises(WeightsError, match=str(path)):
            read(path)
    with pytest.raises(WeightsError, match=r"the network differs .*: the number of classes was 3 and is 4 \(DATA\)"):
        restore(content, make_state(num_classes=4))
    del content["rtdetr"]
    with pytest.raises(WeightsError, match=r"another model.*size mismatch"):
        restore(content, make_state(num_classes=4))
    content["optimizer"]["param_groups"].pop()
    del content["trained"]  # as in published files
    with pytest.raises(WeightsError, match=r"optimizer has groups of \[.*--freeze.*--weights RUN/best\.pth"):
        restore(content, make_state())


def test_parameters_keep_their_moments_in_other_groups(tmp_path, caplog):
    state = make_state()
    step(state)
    save(tmp_path / "last.pth", state)
    again = make_state(seed=1)
    again.optimizer = build_optimizer(again.model, Recipe(lr=1e-3, grouping="modules"))
    assert again.trained != state.trained
    restore(read(tmp_path), again)
    own, others = dict(state.model.named_parameters()), dict(again.model.named_parameters())
    for name, parameter in own.items():
        moments = state.optimizer.state[parameter]
        assert all(torch.equal(value, again.optimizer.state[others[name]][key]) for key, value in moments.items())
    assert caplog.messages == []


@pytest.mark.parametrize("optimizers", [("adamw", "muon"), ("muon", "adamw")])
def test_another_optimizer_keeps_the_moments_that_it_also_has(tmp_path, caplog, optimizers):
    state = make_state(optimizer=optimizers[0])
    step(state)
    save(tmp_path / "last.pth", state)
    again = make_state(seed=1, optimizer=optimizers[1])
    restore(read(tmp_path), again)
    own, others = dict(state.model.named_parameters()), dict(again.model.named_parameters())
    lost = [name for name, parameter in others.items() if parameter not in again.optimizer.state]
    muon = make_state(optimizer="muon")
    groups = zip(muon.optimizer.param_groups, muon.trained, strict=True)
    assert sorted(lost) == sorted(name for group, names in groups if group["muon"] for name in names)
    for name in others.keys() - set(lost):
        moments = state.optimizer.state[own[name]]
        assert all(torch.equal(value, again.optimizer.state[others[name]][key]) for key, value in moments.items())
    assert caplog.messages == [f"resume: train.optimizer has changed; {len(lost)} tensors start with zero moments"]
    step(again)


def test_the_moments_of_both_optimizers_show_which_parameters_were_trained(tmp_path):
    shapes = []
    for optimizer in ("adamw", "muon"):
        state = make_state(optimizer=optimizer)
        step(state)
        save(tmp_path / "last.pth", state)
        shapes.append(sorted(read_pth(tmp_path / "last.pth").moments))
    assert shapes[0] == shapes[1] == sorted(parameter.shape for parameter in state.model.parameters())


def test_resuming_within_an_epoch_requires_the_same_number_of_steps(tmp_path):
    state = make_state()
    step(state)
    save(tmp_path / "last.pth", state)
    other = make_state()
    other.progress = Progress(batches_per_epoch=4)
    with pytest.raises(ConfigError, match="epoch of 5 batches; an epoch now has 4"):
        restore(read(tmp_path), other)
    state.progress = Progress(batches_per_epoch=5, epoch=1, iteration=5)
    save(tmp_path / "last.pth", state)
    restore(read(tmp_path), other)
    assert other.progress == Progress(batches_per_epoch=4, epoch=1, iteration=4)  # where the schedule is after an epoch


def test_best_is_kept_until_something_is_better():
    progress = Progress(batches_per_epoch=1)
    kept = []
    for epoch, ap in enumerate([0.0, 0.3, 0.3, 0.2, 0.4, -1.0]):
        progress.epoch = epoch
        kept.append(progress.note(ap, ap=ap))
    assert kept == [True, True, False, False, True, False]
    assert (progress.best_ap, progress.best_epoch, progress.evaluations_since_best) == (0.4, 4, 0)


def test_the_latest_weights_are_best_if_nothing_can_be_measured():
    progress = Progress(batches_per_epoch=1)
    for epoch in (0, 1):
        progress.epoch = epoch
        assert progress.note(-1.0, ap=-1.0)
        assert (progress.best_ap, progress.best_epoch, progress.evaluations_since_best) == (None, epoch, 0)
    assert progress.note(-1.0, ap=0.25, metric="ap_small") and progress.best_ap == 0.25
    assert progress.note(0.0, ap=0.125, metric="ap_small") and progress.best_ap == 0.125
