"""Records as a run writes them."""

from rtdetr.reports.metrics import EpochRecord, StepRecord


def step_record(iteration: int, epoch: int = 1) -> StepRecord:
    return StepRecord(
        iteration=iteration,
        epoch=epoch,
        loss=3.0,
        terms={"loss_vfl": 1.0, "loss_bbox": 2.0},
        learning_rates=[1e-4, 1e-5],
        gradient_norm=None,
        images_per_second=12.0,
        data_wait=0.25,
        memory_gib=1.5,
    )


def epoch_record(epoch: int, *, ap: float | None = 0.5, loss: float | None = 3.0) -> EpochRecord:
    numbers = None if ap is None else [ap, min(0.8, 2 * ap), *[-1.0] * 10]
    terms = {} if loss is None else {"loss_vfl": 1.0, "loss_bbox": 2.0}
    return EpochRecord(epoch=epoch, iteration=epoch * 2, loss=loss, terms=terms, ap=numbers, seconds=61.0)
