"""What would raise the AP of a finished run: more epochs, more images, a larger model, or larger images.

`outlook` needs only numbers (`RunNumbers`). Its result is written to outlook.json, from where the page reads it, and
printed at the end of the run.

More epochs: in the second half of the run, a line is fitted to the logit of AP over the logarithm of the step, so that
AP grows as a power of the steps while it is low, and less the closer it is to 1. A new run with more steps, whose
learning rate schedule is stretched, gains `EXPECTED` times as many logits as the extended line, because curves flatten,
and at most `STEEPEST`, because the falling learning rate makes the end of a run steep. The interval comes from
`INTERVAL` and the scatter of the evaluations around the line.

The constants were chosen from seven pairs of a short and a longer run, from scratch, with small networks on drawn
images; all seven gains are inside the interval (benchmarks/README.md). They have not been checked with other pairs, in
fine-tuning, on photos or in long runs, nor have the limits of the other advice. `benchmarks/outlook.py` checks pairs.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rtdetr.evaluation.report import percent
from rtdetr.wording import counted

OUTLOOK_FILE = "outlook.json"
MIN_EVALUATIONS = 3  # in the second half of the run, to fit a line
MIN_AP = 0.05  # below, the run has hardly begun to learn; real gains were above the interval in 4 of 13 such runs
MIN_OBJECTS = 30  # in the training images and in the validation images; with fewer, AP is mostly chance
LOWEST_AP = 0.001  # in logits
EXPECTED = 0.65  # gain of the longer run in logits, divided by that of the extended line
STEEPEST = 0.9  # largest expected gain in logits per doubling of the steps
INTERVAL = (0.4, 1.8)  # range of the gain in logits, relative to the expected one
SCATTER = 2.0  # standard deviations around the line that are added to the interval
SMALL_GAIN = 0.01  # AP; a smaller gain is hardly worth twice the time
LARGE_GAP, SMALL_GAP = 0.10, 0.05  # AP on training images minus AP on validation images
FITTED = 0.70  # AP on training images from which a larger model can hardly fit them better
COSTLY = 0.05  # AP50 lost to one kind of error


class Forecast(NamedTuple):
    """AP that another run with more steps is expected to gain, as fractions of 1.

    Attributes:
        gain: expected difference of the best AP.
        low: lower end of its interval.
        high: upper end of its interval.
    """

    gain: float
    low: float
    high: float


class Advice(NamedTuple):
    """One sentence for the user.

    Attributes:
        text: what would help or not, with its numbers.
        command: command that does it; None if there is none.
    """

    text: str
    command: str | None = None


class Outlook(NamedTuple):
    """What is known about better runs.

    Attributes:
        forecast: expected gain of twice the epochs; None if the curve does not tell.
        val_ap: AP of the best weights on the validation images, a fraction of 1.
        train_ap: the same on training images without augmentation; None if it is unknown.
        advice: at most three sentences; empty if nothing can be said.
    """

    forecast: Forecast | None
    val_ap: float | None
    train_ap: float | None
    advice: tuple[Advice, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for outlook.json."""
        values = {**self._asdict(), "forecast": None if self.forecast is None else self.forecast._asdict()}
        return {**values, "advice": [one._asdict() for one in self.advice]}


class RunNumbers(NamedTuple):
    """Numbers of a finished run.

    Attributes:
        curve: step and validation AP of each evaluation; an AP that is negative or NaN was not measurable.
        num_steps: planned number of steps.
        epochs: planned number of epochs.
        size_hw: height and width of the images at the network's input, pixels.
        val_ap: validation AP of the best weights, a fraction of 1; None if it was not measurable.
        train_ap: their AP on training images without augmentation; None if it was not measured.
        num_objects: objects in the measured training images and in the validation images.
        evaluations_since_best: evaluations without improvement if the run stopped early, otherwise 0.
        num_shared: validation images that are training images too.
        num_val: validation images.
        evaluation: result of `EvaluationReport.to_json` for the best weights; may be empty.
        folder: folder of the run.
        same_run: command line that repeats the run, to which options are added; None if a command line cannot.
        larger_model: command line that trains the next larger model; None if there is none.
    """

    curve: Sequence[tuple[int, float]]
    num_steps: int
    epochs: int
    size_hw: tuple[int, int]
    val_ap: float | None
    train_ap: float | None = None
    num_objects: tuple[int, int] = (0, 0)
    evaluations_since_best: int = 0
    num_shared: int = 0
    num_val: int = 0
    evaluation: Mapping[str, Any] = {}
    folder: str = ""
    same_run: str | None = None
    larger_model: str | None = None


def forecast(curve: Sequence[tuple[int, float]], num_steps: int, *, factor: float = 2.0) -> Forecast | None:
    """Predict the gain in AP of a new run with more steps of the same recipe, from the curve of a finished run.

    Args:
        curve: step and validation AP of each evaluation, as fractions of 1. Negative and NaN values are left out.
        num_steps: number of steps of the finished run.
        factor: steps of the new run divided by those of the finished one, above 1.

    Returns:
        None if there are fewer than `MIN_EVALUATIONS` in the second half of the run, or if AP stays below `MIN_AP`.
    """
    known = [(step, ap) for step, ap in curve if math.isfinite(ap) and ap >= 0]
    second = [(step, ap) for step, ap in known if 2 * step >= num_steps]
    if len({step for step, _ in second}) < MIN_EVALUATIONS or max(ap for _, ap in known) < MIN_AP:
        return None
    doublings, values = np.log2([step / num_steps for step, _ in second]), np.array([ap for _, ap in second])
    rise, end = np.polyfit(doublings, _logit(values), 1)
    residuals = values - _sigmoid(end + rise * doublings)
    scatter = SCATTER * math.sqrt(float(residuals @ residuals) / max(len(values) - 2, 1))
    steep = max(float(rise), 0.0)  # the best weights are kept, so a falling curve costs nothing
    more = min(EXPECTED * steep, STEEPEST) * math.log2(factor)
    gain, low, high = (float(_sigmoid(end + ratio * more) - _sigmoid(end)) for ratio in (1.0, *INTERVAL))
    room = 1.0 - max(ap for _, ap in known)
    return Forecast(min(gain, room), min(low - scatter, room), min(high + scatter, room))


def _logit(values: np.ndarray) -> np.ndarray:
    kept = np.clip(values, LOWEST_AP, 1 - LOWEST_AP)
    return np.log(kept / (1 - kept))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def outlook(numbers: RunNumbers) -> Outlook | None:
    """Say what would raise the AP of a finished run; None if AP was never measured."""
    if numbers.val_ap is None or not math.isfinite(numbers.val_ap) or numbers.val_ap < 0:
        return None
    expected = None if numbers.evaluations_since_best else forecast(numbers.curve, numbers.num_steps)
    is_flat = numbers.evaluations_since_best > 0 or (expected is not None and _is_flat(expected))
    if 2 * numbers.num_shared > numbers.num_val:
        advice = [_about_shared_images(numbers)]
    else:
        advice = [
            _about_epochs(numbers, expected),
            _about_training_ap(numbers, is_flat=is_flat),
            _about_errors(numbers),
        ]
    train_ap = numbers.train_ap if numbers.train_ap is not None and numbers.train_ap >= 0 else None
    return Outlook(expected, numbers.val_ap, train_ap, tuple(one for one in advice if one is not None))


def _is_flat(expected: Forecast) -> bool:
    return expected.high < 2 * SMALL_GAIN


def _about_shared_images(numbers: RunNumbers) -> Advice:
    return Advice(
        f"{numbers.num_shared:,} of the {counted(numbers.num_val, 'validation image')} are training images too, so the "
        "AP does not show how well the model works on new images. Give separate validation images with --val-data"
    )


def _about_epochs(numbers: RunNumbers, expected: Forecast | None) -> Advice:
    """Whether more epochs would help."""
    longer, now = 2 * numbers.epochs, percent(numbers.val_ap)
    command = _with(numbers, f"--epochs {longer}", name=f"{longer}-epochs")
    if numbers.evaluations_since_best:
        since = counted(numbers.evaluations_since_best, "evaluation")
        return Advice(f"More epochs would not help: no improvement in the last {since}, at a best AP of {now}.")
    if expected is None:
        if max((ap for _, ap in numbers.curve if math.isfinite(ap)), default=0.0) < MIN_AP:
            return Advice(
                f"AP is only {now}; below {percent(MIN_AP)}, a curve does not tell what more epochs would bring. "
                f"Train longer: --epochs {longer}",
                command,
            )
        return Advice(
            f"Too few evaluations to tell whether more epochs would help: {MIN_EVALUATIONS} are needed in the second "
            "half of the run. Use more epochs or a smaller --evaluate-every"
        )
    gain, low, high = (f"{100 * value:+.1f}" for value in expected)
    numbers_text = (
        f"with {counted(longer, 'epoch')} instead of {numbers.epochs:,}, the AP of {now} would change by about {gain} "
        f"(likely {low} to {high})"
    )
    if _is_flat(expected):
        return Advice(f"More epochs would hardly help: {numbers_text}.")
    is_clear = expected.low > 0 and expected.gain >= SMALL_GAIN
    verdict = "More epochs would help" if is_clear else "More epochs may help"
    return Advice(f"{verdict}: {numbers_text}.", command)


def _about_training_ap(numbers: RunNumbers, *, is_flat: bool) -> Advice | None:
    """Whether more images or a larger model would help, from the AP on training and on validation images."""
    train_ap, val_ap = numbers.train_ap, numbers.val_ap
    if train_ap is None or val_ap is None or not train_ap >= MIN_AP or min(numbers.num_objects) < MIN_OBJECTS:
        return None
    gap = train_ap - val_ap
    both = f"AP is {percent(train_ap)} on training images and {percent(val_ap)} on validation images"
    if gap >= LARGE_GAP:
        return Advice(
            f"More images would help: {both}. Add training images like the validation images, and train again.",
            _with(numbers, name="more-images"),
        )
    if is_flat and train_ap < FITTED:
        return Advice(
            f"A larger model may help more than more images: {both}, so this one does not fit even the training images "
            "well.",
            numbers.larger_model,
        )
    return Advice(f"More images alone would hardly help: {both}.") if gap < SMALL_GAP else None


def _about_errors(numbers: RunNumbers) -> Advice | None:
    """Advice on the kind of error that costs most AP50, if it is small objects or classes taken for each other."""
    costs = {kind: one.get("ap50_cost") or 0.0 for kind, one in (numbers.evaluation.get("errors") or {}).items()}
    worst = max(costs, key=lambda kind: costs[kind], default=None)
    if worst is None or costs[worst] < COSTLY or (numbers.val_ap or 0.0) < MIN_AP:
        return None
    if worst in ("missed", "localization"):
        return _about_small_objects(numbers, worst, costs[worst])
    return _about_classes(numbers.evaluation, costs[worst]) if worst == "class" else None


def _about_small_objects(numbers: RunNumbers, kind: str, cost: float) -> Advice | None:
    metrics = numbers.evaluation.get("metrics") or {}
    small = metrics.get("ap_small")
    larger = [value for value in (metrics.get("ap_medium"), metrics.get("ap_large")) if value is not None]
    if small is None or (larger and max(larger) < small + LARGE_GAP):
        return None
    name = "Missed objects" if kind == "missed" else "Inexact boxes"
    other = f", AP of larger ones {percent(max(larger))}" if larger else ""
    size_hw = tuple(math.ceil(1.5 * side / 32) * 32 for side in numbers.size_hw)
    size = "{}x{}".format(*size_hw)
    return Advice(
        f"Larger images may help: {name.lower()} cost {percent(cost)} AP50, and small objects have an AP of "
        f"{percent(small)}{other}. Try --size {size}",
        _with(numbers, f"--size {size}", name=size),
    )


def _about_classes(evaluation: Mapping[str, Any], cost: float) -> Advice | None:
    """Name the two classes that are confused most."""
    confusion = evaluation.get("confusion") or {}
    counts, names = np.array(confusion.get("counts") or []), confusion.get("names") or []
    if counts.ndim != 2 or len(counts) < 3:  # two classes and the background
        return None
    wrong = counts[:-1, :-1] * (1 - np.eye(len(counts) - 1, dtype=int))
    true, found = np.unravel_index(wrong.argmax(), wrong.shape)
    if not wrong[true, found]:
        return None
    return Advice(
        f"Wrong classes cost {percent(cost)} AP50, most often {names[true]!r} detected as {names[found]!r}: "
        f"{wrong[true, found]:,} of {counted(int(counts[true].sum()), 'object')}. Check the labels of these classes, "
        "or add images of them."
    )


def _with(numbers: RunNumbers, options: str = "", *, name: str) -> str | None:
    """The command of the run with more options and an output folder of its own."""
    if numbers.same_run is None:
        return None
    output = shlex.quote(f"{numbers.folder}-{name}")
    return " ".join(part for part in (numbers.same_run, options, f"--output {output}") if part)
