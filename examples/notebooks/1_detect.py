# %% [markdown]
# # Detect
#
# Load a model, detect objects in images, and draw them. First run `make demo`, which trains the small model that this
# notebook uses. `rtdetr.load` also takes the name of published weights, such as `"rtdetrv2_r18vd"`, your own
# checkpoint, or an exported file.

# %%
import io
from pathlib import Path

from IPython.display import Image, display

import rtdetr
from rtdetr.drawing import draw

DEMO = Path("../../demo")  # written by `make demo`
images = sorted((DEMO / "data/images/val").glob("*.jpg"))
detector = rtdetr.load(DEMO / "run/best.pth")
print(detector.description)

# %% [markdown]
# One image gives one result. Boxes are in pixels of the original image. `threshold="auto"` uses the best threshold of
# each class on the validation images; a number such as `0.5` applies to all classes.

# %%
found = detector(images[-3], threshold="auto")
for box, score, name in zip(found.boxes_xyxy, found.scores, found.class_names, strict=True):
    print(f"{name:10}{score:.2f}  {box.round().tolist()}")

# %%
jpeg = io.BytesIO()
draw(images[-3], found).save(jpeg, "JPEG", quality=80)
display(Image(jpeg.getvalue()))

# %% [markdown]
# A list of images gives a list of results. The images are processed in batches, and may differ in size.

# %%
for path, result in zip(images[:4], detector(images[:4], threshold="auto"), strict=True):
    print(path.name, result.counts())

# %% [markdown]
# Results hold NumPy arrays. Select detections with a mask, or by score:

# %%
large = (found.boxes_xyxy[:, 2] - found.boxes_xyxy[:, 0]) > 40
print(
    len(found), "objects,", len(found[large]), "wider than 40 pixels,", len(found.above(0.8)), "with a score above 0.8"
)
