"""Where a run stands: what the loop moves on, checkpoints keep and the log reads."""

from dataclasses import dataclass, field

from rtdetr.reports.metrics import Sums


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        batches_per_epoch: length of an epoch.
        epoch: the epoch under way, counted from 0.
        batch: its batches that are done; all of them: trained and not yet evaluated.
        iteration: steps made over the whole run.
        best_metric: the metric that decides.
        best_value: its highest value so far; None before the first evaluation.
        best_ap: the validation AP that came with it, in [0, 1]; None where the data has nothing to measure it by.
        best_epoch: the epoch that best.pth is of.
        evaluations_since_best: how many did not.
        thresholds: for each label the score with the best F1 in that evaluation.
        skipped: latest steps, in a row, that were skipped because something was not finite.
        since_row: what was measured in the epoch under way since its last row of metrics.jsonl.
        of_epoch: what was measured in the whole of it.
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
        """Keep the result of the epoch under way if it is the best so far, and return whether it is.

        A value below 0 says that the data has nothing to measure it by; as long as nothing else comes, the latest
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
