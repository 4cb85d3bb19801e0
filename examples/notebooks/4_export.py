# %% [markdown]
# # Export
#
# Write a file that runs without PyTorch and without this library, compare it with the model, and run it with ONNX
# Runtime alone. First run `make demo`.

# %%
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

import rtdetr
from rtdetr.export import ExportOptions, export

DEMO = Path("../../demo")  # written by `make demo`
images = sorted((DEMO / "data/images/val").glob("*.jpg"))

# %% [markdown]
# `check=True` compares the detections of the file with those of the model before the file is put in place. Use images
# with objects that the model knows.

# %%
result = export(
    DEMO / "run/best.pth", "model.onnx", options=ExportOptions(dynamic_batch=True), check=True, images=images[:4]
)
print(result.num_nodes, "operators, check passed:", result.report is not None and result.report.passed)

# %% [markdown]
# With this library, you use an exported file like any other detector:

# %%
reference, exported = rtdetr.load(DEMO / "run/best.pth", precision="float32"), rtdetr.load("model.onnx")
print(exported.description)
for path in images[:4]:
    first, second = reference(path), exported(path)
    same = first.class_names == second.class_names
    print(path.name, len(first), "objects, the same classes:", same)

# %% [markdown]
# Without this library, pass an RGB image with values in 0..1, stretched to the input size, and the original width and
# height:

# %%
session = onnxruntime.InferenceSession("model.onnx")
about = json.loads(session.get_modelmeta().custom_metadata_map["rtdetr"])
height, width = session.get_inputs()[0].shape[2:]
with Image.open(images[1]) as image:
    size_wh = np.array([image.size], dtype=np.int64)
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
pixels = np.asarray(resized, dtype=np.float32).transpose(2, 0, 1)[None] / 255
labels, boxes, scores = session.run(None, {"images": pixels, "orig_target_sizes": size_wh})
confident = np.asarray(scores)[0] > 0.5
print("model:", about["model"], " labels:", np.asarray(labels)[0][confident].tolist())
print(np.asarray(boxes)[0][confident].round())
