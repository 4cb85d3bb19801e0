# %% [markdown]
# # Embed a detector in a service
#
# Build an HTTP service that takes an image and answers with JSON, from an ONNX file and the standard library. The
# service does not need PyTorch: in a clone, `pip install '.[onnx]'` is enough. First run `make demo`.

# %%
import io
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from IPython.display import Image as Show
from IPython.display import display
from PIL import Image

import rtdetr
from rtdetr.drawing import draw

DEMO = Path("../../demo")  # written by `make demo`

# %% [markdown]
# Export once, on a machine with PyTorch. Here, the export runs in a separate process, so that this one does not load
# PyTorch.

# %%
command = [sys.executable, "-m", "rtdetr", "export", str(DEMO / "run/best.pth"), "--output", "service.onnx"]
done = subprocess.run([*command, "--no-check"], capture_output=True, text=True)
print("exit status", done.returncode)

# %% [markdown]
# All threads can use one detector at the same time. Two things matter:
#
# - `num_threads` is the number of CPU threads of one call. If several requests arrive at a time, 1 gives the most
#   requests per second. All cores give the shortest time for a single request.
# - Detect once at startup, because engines prepare themselves at the first image.

# %%
detector = rtdetr.load("service.onnx", num_threads=1)
detector(Image.new("RGB", (320, 240)))
print(detector.description, "- PyTorch loaded:", "torch" in sys.modules)

# %% [markdown]
# The handler reads the image from the request. Errors that the client causes, such as a damaged or too large image, are
# a `rtdetr.RTDETRError` with a readable message. The handler returns them with status 400.

# %%
MAX_BYTES = 20_000_000


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if not 0 < length <= MAX_BYTES:
            self.answer(413, {"error": f"expected an image of at most {MAX_BYTES} bytes"})
            return
        try:
            found = detector(self.rfile.read(length), threshold=0.5)
        except rtdetr.RTDETRError as error:
            self.answer(400, {"error": str(error)})
            return
        self.answer(200, found.to_json())

    def answer(self, status: int, document: dict) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # one line per request on stderr otherwise
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)  # port 0: any free one
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_address[1]}/"

# %% [markdown]
# Send a request, as any client would (`curl --data-binary @photo.jpg URL`):

# %%
path = sorted((DEMO / "data/images/val").glob("*.jpg"))[-3]


def ask(body: bytes) -> dict:
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=60) as response:
        return json.load(response)


answer = ask(path.read_bytes())
for row in answer["detections"]:
    print(row["name"], round(row["score"], 2), [round(value) for value in row["box_xyxy"]])

# %%
jpeg = io.BytesIO()
draw(path, detector(path, threshold=0.5)).save(jpeg, "JPEG", quality=80)
display(Show(jpeg.getvalue()))

# %% [markdown]
# Many requests at once get the same answer, and a file that is not an image gets a client error:

# %%
with ThreadPoolExecutor(8) as pool:
    answers = list(pool.map(ask, [path.read_bytes()] * 16))
print(all(one == answer for one in answers), len(answers))
try:
    ask(b"not an image")
except urllib.error.HTTPError as error:
    print(error.code, json.load(error)["error"])

# %%
server.shutdown()
server.server_close()
