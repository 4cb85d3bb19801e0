"""Loading from and pushing to the hub, against a local server that speaks its routes.

Each test is a process of its own: huggingface_hub reads its settings when it is imported.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")

from rtdetr.hf.image_processing import RTDetrImageProcessor  # noqa: E402
from tests.hf.hub_server import TOKEN, USER, Hub, serving  # noqa: E402
from tests.hf.models import assert_same_outputs, ours, stock, tiny  # noqa: E402

pytestmark = pytest.mark.slow

LOADING = """
import sys, torch, transformers
from rtdetr.errors import WeightsError
from rtdetr.hf import RTDetrImageProcessor, RTDetrV2Config, RTDetrV2ForObjectDetection
from rtdetr.hf.registration import register
folder, first = sys.argv[1:]
local = RTDetrV2ForObjectDetection.from_pretrained(folder)

def same(other):
    one, two = local.state_dict(), other.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)

assert same(RTDetrV2ForObjectDetection.from_pretrained("somebody/whole"))
assert same(RTDetrV2ForObjectDetection.from_pretrained("somebody/whole", local_files_only=True))
assert same(RTDetrV2ForObjectDetection.from_pretrained("somebody/shards"))
assert same(RTDetrV2ForObjectDetection.from_pretrained("somebody/below", subfolder="deep"))
assert not same(RTDetrV2ForObjectDetection.from_pretrained("somebody/changed"))
assert same(RTDetrV2ForObjectDetection.from_pretrained("somebody/changed", revision=first))
assert RTDetrV2Config.from_pretrained("somebody/whole").decoder_layers == local.config.decoder_layers
assert RTDetrImageProcessor.from_pretrained("somebody/whole").size["height"] == 96
wrong = {"nothing": {}, "whole": {"revision": "none"}, "secret": {"token": False}}
for name, options in wrong.items():
    name = f"somebody/{name}"
    try:
        RTDetrV2ForObjectDetection.from_pretrained(name, **options)
    except OSError as error:
        print("OSError", name, str(error).splitlines()[0])
    else:
        raise SystemExit(f"{name} was found")
assert same(RTDetrV2ForObjectDetection.from_pretrained("somebody/secret", token="hf_secret"))
try:
    RTDetrV2ForObjectDetection.from_pretrained("somebody/empty")
except WeightsError as error:
    print(error)
register()
assert type(transformers.AutoModelForObjectDetection.from_pretrained("somebody/whole")) is RTDetrV2ForObjectDetection
assert type(transformers.AutoImageProcessor.from_pretrained("somebody/whole")) is RTDetrImageProcessor
"""

OFFLINE = """
import torch, transformers
from rtdetr.hf import RTDetrImageProcessor, RTDetrV2ForObjectDetection
from rtdetr.hf.registration import register
for name in ("somebody/whole", "somebody/shards"):
    RTDetrV2ForObjectDetection.from_pretrained(name)
RTDetrImageProcessor.from_pretrained("somebody/whole")
try:
    RTDetrV2ForObjectDetection.from_pretrained("somebody/never")
except OSError as error:
    print("OSError", str(error).splitlines()[0])
register()
detect = transformers.pipeline("object-detection", model="somebody/whole")
print(type(detect.model).__module__, type(detect.image_processor).__module__)
"""

PUSHING = """
import sys
from rtdetr.hf import RTDetrImageProcessor, RTDetrV2ForObjectDetection
folder, target = sys.argv[1:]
model = RTDetrV2ForObjectDetection.from_pretrained(folder)
processor = RTDetrImageProcessor.from_pretrained(folder)
model.push_to_hub("somebody/pushed", commit_message="first")
processor.push_to_hub("somebody/pushed")
model.save_pretrained(target, push_to_hub=True, repo_id="somebody/also", max_shard_size="50KB")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    tiny().save_pretrained(folder)
    RTDetrImageProcessor(size={"height": 96, "width": 128}).save_pretrained(folder)
    return folder


def run(script: str, *arguments: str, endpoint: str, home: Path, **environment: str) -> str:
    """Run Python code with a hub and a cache of its own; returns what it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))}
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**kept, **own, "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_loading_and_offline_mode(folder: Path, tmp_path: Path) -> None:
    hub = Hub()
    hub.upload("somebody/whole", folder)
    hub.upload("somebody/never", folder)
    hub.upload("somebody/below", folder, below="deep/")
    hub.upload("somebody/secret", folder)
    hub.private.add("somebody/secret")
    hub.commit("somebody/empty", {"config.json": (folder / "config.json").read_bytes()})
    ours(folder).save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    hub.upload("somebody/shards", tmp_path / "shards")
    first = hub.upload("somebody/changed", folder)
    changed = ours(folder)
    torch.nn.init.ones_(changed.model.decoder.enc_score_head.bias)
    changed.save_pretrained(tmp_path / "changed")
    hub.upload("somebody/changed", tmp_path / "changed")
    with serving(hub) as endpoint:
        printed = run(LOADING, str(folder), first, endpoint=endpoint, home=tmp_path / "home")
        for name in ("somebody/nothing", "somebody/whole", "somebody/secret"):
            assert f"OSError {name}" in printed
        assert "somebody/empty contains no weights: expected model.safetensors or" in printed
        assert any("/storage/somebody/whole/" in request for request in hub.requests)  # the redirect was followed
        asked = len(hub.requests)
        printed = run(OFFLINE, endpoint=endpoint, home=tmp_path / "home", HF_HUB_OFFLINE="1")
        assert len(hub.requests) == asked
    assert "OSError" in printed and "rtdetr.hf.modeling rtdetr.hf.image_processing" in printed


def test_pushing(folder: Path, tmp_path: Path) -> None:
    hub = Hub()
    with serving(hub) as endpoint:
        run(PUSHING, str(folder), str(tmp_path / "kept"), endpoint=endpoint, home=tmp_path / "home")
    for name in ("pushed", "also"):
        revision, files = hub.at(f"{USER}/{name}", "main") or ("", {})
        assert revision
        (tmp_path / name).mkdir()
        for path, content in files.items():
            (tmp_path / name / path).write_bytes(content)
        assert_same_outputs(ours(tmp_path / name), ours(folder))
        assert_same_outputs(
            stock(tmp_path / name, dtype=torch.float64), ours(folder, dtype=torch.float64), tolerance=1e-6
        )
    assert "README.md" in os.listdir(tmp_path / "pushed")
    assert json.loads((tmp_path / "pushed" / "preprocessor_config.json").read_text())["size"]["height"] == 96
    assert len(list((tmp_path / "also").glob("*.safetensors"))) > 3
    assert_same_outputs(ours(tmp_path / "kept"), ours(folder))
