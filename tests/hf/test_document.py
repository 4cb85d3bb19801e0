"""The Python examples of docs/huggingface.md run as they stand, with weights and the image from folders."""

import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from rtdetr import zoo
from rtdetr.hf import RTDetrImageProcessor, unregister
from tests.hf.models import filled

DOCUMENT = Path(__file__).parents[2] / "docs" / "huggingface.md"


def examples() -> list[str]:
    """All but those that need PEFT, which the tests do not install."""
    found = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    return [example for example in found if "from peft" not in example]


@pytest.mark.slow
def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The published repository's name is that of a folder here, which is where transformers looks first."""
    repository = tmp_path / "PekingU" / "rtdetr_v2_r18vd"
    filled(zoo.model_config("rtdetrv2_r18vd")).save_pretrained(repository)
    RTDetrImageProcessor().save_pretrained(repository)
    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).resize((640, 480)).save(
        picture, "PNG"
    )
    asked = []

    def get(url: str, *, stream: bool) -> SimpleNamespace:
        asked.append(url)
        return SimpleNamespace(raw=picture)

    monkeypatch.setitem(sys.modules, "requests", SimpleNamespace(get=get))
    monkeypatch.chdir(tmp_path)
    assert len(examples()) == 4
    try:
        for example in examples():
            exec(compile(example, str(DOCUMENT), "exec"), {})
    finally:
        unregister()
    assert asked == ["http://images.cocodataset.org/val2017/000000039769.jpg"]
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(re.fullmatch(r"[a-z ]+: [01]\.\d\d \[-?\d.*\]", line) for line in lines)
    assert (tmp_path / "r50vd_m_three_layers" / "model.safetensors").stat().st_size > 1e8
