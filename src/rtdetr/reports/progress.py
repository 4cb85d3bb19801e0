"""Progress of a run: updated by the training loop, stored in checkpoints, and read by the log."""

from dataclasses import dataclass, field

from rtdetr.reports.metrics import Sums


@dataclass
class Progress:
    """Progress of a run.

    Attributes:
        batches_per_epoch: number of batches per epoch.
        epoch: current epoch, counted from 0.
        batch: number of finished batches of the epoch; if all are finished, the epoch is not yet evaluated.
        iteration: number of steps in the whole run.
        best_metric: metric that selects the best weights.
        best_value: highest value of that metric so far; None before the first evaluation.
        best_ap: validation AP of the same evaluation, in [0, 1]; None if it cannot be measured on this data.
        best_epoch: epoch of best.pth.
        evaluations_since_best: number of evaluations without improvement.
        thresholds: score threshold with the best F1 per label, in the best evaluation.
        skipped: number of consecutive last steps skipped because a value was not finite.
        since_row: sums since the last row of metrics.jsonl, within the epoch.
        of_epoch: sums over the epoch.
    """

    batches_per_epoch: int
    epoch: int = 0
    batch: int = 0
    iteration: int = 0
    best_metric: str = "ap"
    best_value: float | None = None
    best_ap: float | None = None
    best_epoch: int | None = None
    evaluations_since_best: int = 0
    thresholds: list[float] | None = None
    skipped: int = 0
    since_row: Sums = field(default_factory=Sums)
    of_epoch: Sums = field(default_factory=Sums)

    def note(self, value: float, *, ap: float, metric: str = "ap") -> bool:
        """Record the result of the current epoch if it is the best so far, and return whether it is.

        A value below 0 means that it cannot be measured on this data; until there is a measured value, the latest
        weights count as the best.
        """
        if metric != self.best_metric:  # values of two metrics cannot be compared
            self.best_value, self.best_metric, self.evaluations_since_best = None, metric, 0
        if value < 0:
            if self.best_value is None:
                self.best_ap, self.best_epoch = ap if ap >= 0 else None, self.epoch
            return self.best_value is None
        if self.best_value is not None and value <= self.best_value:
            self.evaluations_since_best += 1
            return False
        self.best_value, self.best_ap, self.best_epoch, self.evaluations_since_best = value, ap, self.epoch, 0
        return True
