"""A Trainer callback that keeps an exponential moving average of the weights: what is evaluated, saved and released."""

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rtdetr.config import Recipe
from rtdetr.errors import ConfigError
from rtdetr.training import ModelEMA

_KEY = "rtdetr_average"  # in the state of the optimizer


class AverageWeights(TrainerCallback):
    """Trains the raw weights, evaluates and saves their average.

    Whenever Trainer is going to evaluate or to save, the model gets the averaged weights, and the raw ones again before
    the next step; after training it keeps the averaged ones, or the best checkpoint with `load_best_model_at_end`. So
    `checkpoint-*/model.safetensors` is what was evaluated. The raw weights lie in the checkpoint's optimizer.pt, and
    `trainer.train(resume_from_checkpoint=...)` goes on exactly.

    Attributes:
        ema: the average; None before training.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Average with the decay and the warm-up of a recipe."""
        self.recipe = recipe
        self.ema: ModelEMA | None = None
        self._model: nn.Module | None = None
        self._exchanged = False  # the model holds the averaged weights, and `ema.module` the raw ones
        self._resumed: dict[str, Any] | None = None

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Let the optimizer's state carry what a resumed run needs: Trainer saves and loads nothing else for us.

        Raises:
            ConfigError: Trainer was not given an optimizer, or shards the weights.
        """
        optimizer = kwargs.get("optimizer")
        if optimizer is None:
            raise ConfigError("AverageWeights needs Trainer(optimizers=...); make them with build_optimizers")
        if args.fsdp or args.deepspeed:
            raise ConfigError("AverageWeights cannot average weights that FSDP or DeepSpeed shards; leave it out")
        optimizer.register_state_dict_post_hook(self._store)
        optimizer.register_load_state_dict_pre_hook(self._restore)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the average, or go on with that of a checkpoint."""
        model: nn.Module = kwargs["model"]
        self._model, self._exchanged = model, False
        self.ema = ModelEMA(model, decay=self.recipe.ema_decay, warmup=self.recipe.ema_warmup)
        resumed, self._resumed = self._resumed, None
        if resumed is None or state.global_step == 0:
            return
        self.ema.updates = resumed["updates"]
        (model if resumed["holds"] == "raw" else self.ema.module).load_state_dict(resumed["weights"])

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Train the raw weights."""
        self._exchange(wanted=False)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Follow the step that was made."""
        if self.ema is not None:
            self.ema.update(kwargs["model"])
        self._exchange(wanted=control.should_evaluate or control.should_save)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate and save the average."""
        self._exchange(wanted=self._exchanged or control.should_evaluate or control.should_save)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the average in the model, unless it holds the best checkpoint, which is one."""
        if not (args.load_best_model_at_end and state.best_model_checkpoint):
            self._exchange(wanted=True)
        self.ema = None  # half of the memory

    @torch.no_grad()
    def _exchange(self, *, wanted: bool) -> None:
        """See that the model holds the averaged weights, or the raw ones."""
        if self.ema is None or self._model is None or wanted == self._exchanged:
            return
        averaged = self.ema.module.state_dict()
        for name, value in self._model.state_dict().items():
            kept = value.clone()
            value.copy_(averaged[name])
            averaged[name].copy_(kept)
        self._exchanged = wanted

    def _store(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Add the weights that are not in the model, which Trainer saves on its own, to a state that is saved."""
        if self.ema is not None:
            holds = "raw" if self._exchanged else "averaged"
            weights = self.ema.module.state_dict()
            state[_KEY] = {"holds": holds, "weights": weights, "updates": self.ema.updates}

    def _restore(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Keep what `_store` added to the state of a checkpoint until training begins."""
        self._resumed = state.pop(_KEY, None)
