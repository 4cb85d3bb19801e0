# %% [markdown]
# # Fine-tune
#
# Train on your own dataset, starting from trained weights. This notebook draws a dataset in which two of six classes
# are new, and starts from the weights of `make demo`, so run that first. With your images, pass your folder (COCO,
# YOLO or Pascal VOC) and `weights="rtdetrv2_r18vd"`.

# %%
import csv
import io
import subprocess
import sys
from pathlib import Path

from IPython.display import Image, display
from PIL import Image as PILImage

import rtdetr
from rtdetr.data import open_dataset
from rtdetr.data.doctor import check

DEMO = Path("../../demo")  # written by `make demo`
command = [sys.executable, "../demo/make_dataset.py", "shapes", "--num-train", "96", "--num-val", "32", "--seed", "1"]
subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
for file in Path("shapes/annotations").glob("*.json"):  # two classes that the weights do not know
    file.write_text(file.read_text().replace('"disk"', '"coin"').replace('"star"', '"badge"'))

# %% [markdown]
# Check the data before training. Errors would stop the training.

# %%
dataset = open_dataset("shapes", split="train")
image, target = dataset.load(0)
print(len(dataset), "images of", dataset.categories.names)
print(image.size, target["boxes_xyxy"].round().tolist())
print("sound:", check("shapes").sound)

# %% [markdown]
# A dry run checks the settings and writes the plan, without training:

# %%
settings = {"weights": DEMO / "run/best.pth", "epochs": 3, "lr": 1e-4, "workers": 0, "output_dir": "finetuned"}
rtdetr.train("shapes", dry_run=True, **settings)
print(Path("finetuned/plan.txt").read_text())

# %%
rtdetr.train("shapes", **settings)
with open("finetuned/epochs.csv") as file:
    for row in csv.DictReader(file):
        print(f"epoch {row['epoch']}: AP {100 * float(row['ap']):.1f}, AP50 {100 * float(row['ap50']):.1f}")

# %% [markdown]
# The checkpoint stores the class names, so you can use it right away:

# %%
report = rtdetr.evaluate("finetuned/best.pth", "shapes")
for one in report.classes:
    print(f"{one.name:10}{one.objects:4} objects   AP50 {100 * (one.ap50 or 0):.1f}")

# %% [markdown]
# `finetuned/report.html` has curves, training batches as the network sees them, and the worst images. This is one of
# the batches. Boxes must enclose the objects.

# %%
batch = min(Path("finetuned/images").glob("batch_*.png"))
jpeg = io.BytesIO()
with PILImage.open(batch) as sheet:
    sheet.thumbnail((640, 640))
    sheet.convert("RGB").save(jpeg, "JPEG", quality=75)
display(Image(jpeg.getvalue()))
