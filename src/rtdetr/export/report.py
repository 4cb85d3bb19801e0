"""The report of a comparison: whether an exported model matches the original, the reason if not, and all numbers."""

from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from rtdetr.export.agreement import Agreement, Tolerance
from rtdetr.export.stages import largest_error

ROUNDING = 5e-5  # difference in AP due to rounding between two engines in float32


@dataclass(frozen=True)
class VerifyReport:
    """Result of `verify`.

    Attributes:
        model: the model that was verified.
        reference: the model it was compared with.
        num_images: number of images compared.
        threshold: only detections above this score were compared.
        is_weak: no score was above the requested threshold, so it was lowered to compare the strongest detections.
        tolerance: the allowed differences.
        agreement: result of the comparison.
        size_bytes: size of the file with its weights; None if a detector was given.
        num_nodes: number of operations in the graph; None if the format does not expose them.
        latency_ms: median time from one image to its detections; None if the model does not run.
        reference_latency_ms: the same for the reference.
        failure: why the model does not run or that its output is not finite; None if it runs.
        class_difference: the first class that differs from the reference; None if all agree.
        stage_errors: relative error per stage of the network, if it was measured and the format exposes the stages.
        diverging: the first stage that differs too much; None if there is none, or stages were not compared.
        ap: COCO average precision on the given dataset, 0..1.
        reference_ap: the same for the reference.
    """

    model: str
    reference: str
    num_images: int
    threshold: float
    tolerance: Tolerance
    agreement: Agreement
    size_bytes: int | None
    num_nodes: int | None
    latency_ms: float | None
    reference_latency_ms: float
    is_weak: bool = False
    failure: str | None = None
    class_difference: str | None = None
    stage_errors: dict[str, float] = field(default_factory=dict)
    diverging: str | None = None
    ap: float | None = None
    reference_ap: float | None = None

    @property
    def ap_drop(self) -> float | None:
        """AP of the reference minus AP of the model; negative if the model is better."""
        return None if self.ap is None or self.reference_ap is None else self.reference_ap - self.ap

    @property
    def reason(self) -> str | None:
        """Why the model is refused, on one line; None if it passed."""
        if self.class_difference:
            return self.class_difference
        where = f"; the first stage that differs is {self.diverging}" if self.diverging else ""
        if self.failure:
            return f"{self.failure}{where}"
        if self.agreement.matched_share < self.tolerance.matched:
            if self.stage_errors and not self.diverging:
                where = "; no stage of the network differs on the first image: check preprocessing and postprocessing"
            return (
                f"{self.agreement.matched_share:.1%} of the detections match with IoU {_limit(self.tolerance)} and "
                f"scores within {self.tolerance.score}, expected at least {self.tolerance.matched:.0%}{where}"
                f"{f'. {self._weakness}' if self.is_weak else ''}"
            )
        if self.is_weak and self.diverging:
            return f"stage {self.diverging} of the network differs. {self._weakness}"
        if self.ap_drop is not None and self.ap_drop > self.tolerance.ap_drop + ROUNDING:
            return f"AP drops by {self.ap_drop:.4f}, expected at most {self.tolerance.ap_drop}"
        return None

    @property
    def passed(self) -> bool:
        """Whether the model is within the tolerance."""
        return self.reason is None

    @property
    def note(self) -> str | None:
        """A limitation of the report, on one line; None if there is none."""
        if self.is_weak:
            return self._weakness
        if not self.agreement.is_conclusive:
            return "the model detects nothing at all in these images: pass images with objects that it knows"
        if self.tolerance.matched == 0 and self.ap is None:
            return "INT8 is judged by AP, which was not measured: pass a dataset"
        if self.agreement.matched_share < self.tolerance.matched and not self.stage_errors:
            return "this format does not expose values inside the network, so the stage that differs is unknown"
        return None

    @property
    def _weakness(self) -> str:
        judged = f"its detections above {self.threshold:.2g} were compared"
        if self.tolerance.matched == 0:
            judged = "only the stages of the network were judged"
        return (
            f"the model detects nothing in these images with confidence, so {judged}: pass images with objects "
            "that it knows"
        )

    def table(self) -> Table:
        """Return the report as a table to print with rich."""
        found, allowed = self.agreement, self.tolerance
        table = Table(
            "", "found", "allowed", title=f"{self.model}\ncompared with {self.reference}", title_justify="left"
        )
        table.add_row("images", str(self.num_images), "")
        label = f"detections above {self.threshold:.2g} in either"
        table.add_row(label, f"{found.num_found} (of {found.num_reference})", "")
        if found.is_conclusive:
            judged = allowed.matched > 0  # INT8 is judged by AP
            table.add_row("matched", f"{found.matched_share:.2%}", f">= {allowed.matched:.0%}" if judged else "")
            table.add_row("missed, extra", f"{found.missed}, {found.extra}", "")
            table.add_row("IoU of pairs, lowest", f"{found.lowest_iou:.5f}", _limit(allowed) if judged else "")
            table.add_row("IoU of pairs, mean", f"{found.mean_iou:.5f}", "")
            table.add_row(
                "score difference, largest",
                f"{found.largest_score_difference:.5f}",
                f"<= {allowed.score}" if judged else "",
            )
        if self.stage_errors:
            worst = max(self.stage_errors.values())
            table.add_row("stages compared", str(len(self.stage_errors)), "")
            table.add_row("stage error, largest", f"{worst:.2g}", f"<= {largest_error(allowed):g}")
        if self.ap is not None:
            table.add_row("AP", f"{self.ap:.4f} (of {self.reference_ap:.4f})", f"drop <= {allowed.ap_drop}")
        if self.diverging:
            table.add_row("first stage that differs", self.diverging, "")
        table.add_row("size", "-" if self.size_bytes is None else f"{self.size_bytes / 1e6:.1f} MB", "")
        if self.num_nodes is not None:
            table.add_row("operations", str(self.num_nodes), "")
        own = "-" if self.latency_ms is None else f"{self.latency_ms:.1f} ms"
        speed = f"{own} (PyTorch float32 {self.reference_latency_ms:.1f} ms)"
        table.add_row("one image", speed, "")
        table.add_row("result", "passed" if self.passed else "refused", "")
        return table

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dump`."""
        shares = {"matched_share": self.agreement.matched_share, "ap_drop": self.ap_drop}
        return {**asdict(self), **shares, "passed": self.passed, "reason": self.reason, "note": self.note}


def _limit(tolerance: Tolerance) -> str:
    """Describe the smallest IoU of a matched pair."""
    return f">= {tolerance.iou}" + (f" or {tolerance.pixels} px off" if tolerance.pixels else "")
