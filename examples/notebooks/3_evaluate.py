# %% [markdown]
# # Evaluate
#
# Measure how good a model is, what it gets wrong, and on which images. First run `make demo`. You can evaluate any
# checkpoint, exported file or model name on a dataset with the same class names.

# %%
import io
from pathlib import Path

from IPython.display import Image, display

import rtdetr
from rtdetr.evaluation import draw_comparison, worst_images

DEMO = Path("../../demo")  # written by `make demo`
report = rtdetr.evaluate(DEMO / "run/best.pth", DEMO / "data")
intervals = report.intervals(num_resamples=100, seed=0)
low, high = intervals["ap"]
print(f"AP {100 * report.metrics.ap:.1f}, 95 % confidence {100 * low:.1f} to {100 * high:.1f}")

# %% [markdown]
# The full table has the COCO metrics, each class at its best threshold, and the AP50 that each type of error costs:

# %%
print(report.table())

# %% [markdown]
# These images have the most and the most confident mistakes. Wrong annotations show up here first.

# %%
dataset = report.evaluator.dataset
worst = worst_images(report, dataset, 3)
print(worst)

# %%
jpeg = io.BytesIO()
comparison = draw_comparison(report, dataset, worst[0][0])
comparison.thumbnail((800, 800))
comparison.save(jpeg, "JPEG", quality=75)
display(Image(jpeg.getvalue()))
