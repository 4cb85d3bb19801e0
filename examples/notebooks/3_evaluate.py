# %% [markdown]
# # Evaluate
#
# How good is the model, what does it get wrong, and which images are worst? Run `make demo` once before. Any
# checkpoint, exported file or model name can be evaluated on any dataset that has the same class names.

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
# The whole table: COCO's numbers, the classes at their best thresholds, and the AP50 that each kind of error costs.

# %%
print(report.table())

# %% [markdown]
# The images with the most, and the most confident, mistakes. Wrong annotations show up here first.

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
