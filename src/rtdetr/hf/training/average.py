"""Trainer callback that evaluates and saves an exponential moving average (EMA) of the weights."""

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rtdetr.config import Recipe
from rtdetr.errors import ConfigError
from rtdetr.training import ModelEMA

_KEY = "rtdetr_average"  # in the state of the optimizer


class AverageWeights(TrainerCallback):
    """Train the raw weights, but evaluate and save their average.

    Before Trainer evaluates or saves, the model receives the averaged weights, and before the next step the raw ones.
    After training it keeps the averaged weights, or the best checkpoint with `load_best_model_at_end`. Thus
    `checkpoint-*/model.safetensors` has the weights that were evaluated. The raw weights are in optimizer.pt of the
    checkpoint, and `trainer.train(resume_from_checkpoint=...)` resumes exactly.

    Attributes:
        ema: the average; None before and after training.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Use the EMA decay and warm-up of a recipe."""
        self.recipe = recipe
        self.ema: ModelEMA | None = None
        self._model: nn.Module | None = None
        self._swapped = False  # True: the model has the averaged weights and `ema.module` the raw ones
        self._resumed: dict[str, Any] | None = None

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Store the average in the optimizer state, the only state that Trainer saves and loads for us.

        Raises:
            ConfigError: Trainer has no optimizer, or shards the weights.
        """
        optimizer = kwargs.get("optimizer")
        if optimizer is None:
            raise ConfigError("AverageWeights needs Trainer(optimizers=...); create them with build_optimizers")
        if args.fsdp or args.deepspeed:
            raise ConfigError(
                "AverageWeights does not support weights sharded by FSDP or DeepSpeed; remove it from callbacks"
            )
        optimizer.register_state_dict_post_hook(self._store)
        optimizer.register_load_state_dict_pre_hook(self._restore)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the average, or resume that of a checkpoint."""
        model: nn.Module = kwargs["model"]
        self._model, self._swapped = model, False
        self.ema = ModelEMA(model, decay=self.recipe.ema_decay, warmup=self.recipe.ema_warmup)
        resumed, self._resumed = self._resumed, None
        if resumed is None or state.global_step == 0:
            return
        self.ema.updates = resumed["updates"]
        (model if resumed["holds"] == "raw" else self.ema.module).load_state_dict(resumed["weights"])

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the raw weights for training."""
        self._swap(wanted=False)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Update the average after a step."""
        if self.ema is not None:
            self.ema.update(kwargs["model"])
        self._swap(wanted=control.should_evaluate or control.should_save)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Provide the average for evaluation and saving."""
        self._swap(wanted=self._swapped or control.should_evaluate or control.should_save)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the average in the model, unless the model holds the best checkpoint, which is an average too."""
        if not (args.load_best_model_at_end and state.best_model_checkpoint):
            self._swap(wanted=True)
        self.ema = None  # frees half of the memory

    @torch.no_grad()
    def _swap(self, *, wanted: bool) -> None:
        """Give the model the averaged weights if `wanted`, otherwise the raw ones."""
        if self.ema is None or self._model is None or wanted == self._swapped:
            return
        averaged = self.ema.module.state_dict()
        for name, value in self._model.state_dict().items():
            kept = value.clone()
            value.copy_(averaged[name])
            averaged[name].copy_(kept)
        self._swapped = wanted

    def _store(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Add the weights that are not in the model to the saved state; Trainer saves those of the model."""
        if self.ema is not None:
            holds = "raw" if self._swapped else "averaged"
            weights = self.ema.module.state_dict()
            state[_KEY] = {"holds": holds, "weights": weights, "updates": self.ema.updates}

    def _restore(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Keep what `_store` added to a checkpoint until training begins."""
        self._resumed = state.pop(_KEY, None)
