"""The image size of each step, and that Trainer's model and dataset follow the recipe."""

from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from rtdetr.data.schedule import plan
from rtdetr.hf.training import AugmentationSchedule, AugmentedDataset, batch_size_hw, resize_batch
from tests.hf.training_parts import SIZE_HW, dataset, recipe


def test_sizes_are_drawn_for_a_step_until_multi_scale_stops() -> None:
    one = recipe(epochs=4)
    sizes = [batch_size_hw(one, epoch=0, step=step) for step in range(60)]
    assert set(sizes) == set(plan(one, 0).batch_sizes_hw) and len(set(sizes)) == 3
    assert sizes == [batch_size_hw(one, epoch=0, step=step) for step in range(60)]
    assert sizes != [batch_size_hw(one, epoch=0, step=step, seed=1) for step in range(60)]
    assert {batch_size_hw(one, epoch=3, step=step) for step in range(60)} == {SIZE_HW}


def test_a_batch_is_scaled_to_the_nearest_pixel() -> None:
    images = torch.rand(2, 3, 32, 64)
    assert resize_batch(images, (32, 64)) is images
    assert torch.equal(resize_batch(images, (64, 128)), images.repeat_interleave(2, 2).repeat_interleave(2, 3))


class Recorder(nn.Module):
    """Remembers the sizes of what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, *, pixel_values: torch.Tensor) -> None:
        self.sizes.append(tuple(pixel_values.shape[2:]))


def test_the_callback_scales_in_train_mode_only_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    one = recipe(epochs=4)
    data = AugmentedDataset(dataset(tmp_path), one, seed=3)
    callback, model = AugmentationSchedule(data), Recorder()
    state, nothing = SimpleNamespace(epoch=0.0, global_step=0), SimpleNamespace()
    images = torch.zeros(1, 3, *SIZE_HW)
    callback.on_train_begin(nothing, state, nothing, model=model)
    callback.on_train_begin(nothing, state, nothing, model=model)  # again, after an interruption
    expected = []
    for epoch in (0, 2, 3):
        state.epoch = float(epoch)
        callback.on_epoch_begin(nothing, state, nothing)
        assert data.epoch == epoch
        for _ in range(8):
            callback.on_step_begin(nothing, state, nothing)
            model.train()(pixel_values=images)
            model.eval()(pixel_values=images)
            expected += [batch_size_hw(one, epoch=epoch, step=state.global_step, seed=3), SIZE_HW]
            state.global_step += 1
    assert model.sizes == expected and len(set(expected)) == 4
    callback.on_train_end(nothing, state, nothing)
    model.train()(pixel_values=images)
    assert model.sizes[-1] == SIZE_HW and not model._forward_pre_hooks
