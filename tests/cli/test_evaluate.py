import json
from pathlib import Path

import matplotlib
import pytest
import torch
from typer.testing import CliRunner

import rtdetr
from rtdetr.categories import Categories
from rtdetr.cli.main import app
from rtdetr.export import export
from rtdetr.weights import convert, read_checkpoint, save_weights
from tests.coco_files import annotation, many_images, write_dataset

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSerif-Bold.ttf"


def run(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset folder with a checkpoint of an untrained model, which finds the objects that some of its boxes are."""
    folder = tmp_path_factory.mktemp("set")
    content = many_images(5)
    images_dir, _ = write_dataset(folder, content)
    torch.manual_seed(0)
    model = rtdetr.build_model("test-tiny", num_classes=3)
    torch.nn.init.normal_(model.decoder.dec_score_head[-1].weight, std=0.3)
    categories = Categories.from_json(content["categories"])
    save_weights(model, folder / "tiny.pth", categories=categories)
    (folder / "half.pth").write_bytes((folder / "tiny.pth").read_bytes()[:5000])

    detector = rtdetr.load(folder / "tiny.pth", device="cpu", precision="float32")
    content["annotations"] = []
    for image in content["images"][1:]:
        for row in list(detector(images_dir / image["file_name"], threshold=0.0).clipped())[:60:12]:
            x1, y1, x2, y2 = row.box_xyxy
            number, category_id = len(content["annotations"]) + 1, categories[row.label].id
            content["annotations"].append(annotation(number, image["id"], category_id, [x1, y1, x2 - x1, y2 - y1]))
    (folder / "data.json").unlink()
    (folder / "val.json").write_text(json.dumps(content))
    return folder


def test_a_checkpoint_is_evaluated_on_a_folder(folder, tmp_path):
    result = run(folder / "tiny.pth", folder, "--detections", tmp_path / "found.json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split()[2:4] == ["IoU", "0.50:0.95;"]
    assert "95 % confidence" in result.stdout
    assert "P, R and F1 are at IoU 0.50" in result.stdout
    assert "5 images in" in result.stdout
    rows = json.loads((tmp_path / "found.json").read_text())
    assert {row["category_id"] for row in rows} <= {3, 7, 90}


def test_numbers_as_json(folder):
    options = ("--json", "-", "--size", "64x96", "--batch-size", "2", "--bootstrap", "0")
    result = run(folder / "tiny.pth", folder / "val.json", *options)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert len(document["metrics"]) == 12
    assert 0 <= document["metrics"]["ap"] <= 1
    assert [row["name"] for row in document["classes"]] == ["cat", "dog", "bird"]
    assert document["confidence_95"] == {}
    assert "IoU 0.50:0.95" in result.stderr


def test_the_output_folder_has_all_files(folder, tmp_path):
    output = tmp_path / "new" / "out"
    result = run(folder / "tiny.pth", folder, "--output", output, "--bootstrap", "5", "--seed", "1", "--font", FONT)
    assert result.exit_code == 0, result.output
    names = ["class_ap", "confusion_matrix", "f1_curve", "p_curve", "pr_curve", "r_curve"]
    assert sorted(path.stem for path in output.glob("*.png")) == names
    assert len(list((output / "worst_images").glob("*.jpg"))) >= 4  # of five images, one of them empty
    assert "worst-images" in (output / "report.html").read_text(encoding="utf-8")
    document = json.loads((output / "report.json").read_text())
    assert (document["num_images"], len(document["confidence_95"])) == (5, 2)
    assert len(json.loads((output / "detections.json").read_text())) == 5 * 3 * 30
    bare = run(folder / "tiny.pth", folder, "--output", tmp_path / "bare", "--no-plots")
    assert bare.exit_code == 0
    written = sorted(path.name for path in (tmp_path / "bare").iterdir())
    assert written == ["detections.json", "report.html", "report.json"]


def count(folder, tmp_path, *options):
    assert (
        run(folder / "tiny.pth", folder, "--bootstrap", "0", "--detections", tmp_path / "x.json", *options).exit_code
        == 0
    )
    return len(json.loads((tmp_path / "x.json").read_text()))


def test_other_ways_to_choose_detections(folder, tmp_path):
    assert count(folder, tmp_path, "--one-label") == 5 * 30
    assert count(folder, tmp_path, "--nms", "0.01") < 5 * 3 * 30
    assert count(folder, tmp_path, "--nms", "1") == 5 * 3 * 30


def test_thresholds_are_stored_and_used_by_predict(folder, tmp_path):
    weights = tmp_path / "tiny.pth"
    weights.write_bytes((folder / "tiny.pth").read_bytes())
    command = ["predict", str(folder / "images"), "--model", str(weights), "--device", "cpu", "--threshold"]
    refused = CliRunner().invoke(app, [*command, "auto"])
    assert refused.exit_code == 2
    assert "rtdetr evaluate MODEL DATA --save-thresholds" in refused.stderr

    result = run(weights, folder, "--save-thresholds", "--json", tmp_path / "all.json", "--bootstrap", "0")
    assert result.exit_code == 0, result.output
    classes = json.loads((tmp_path / "all.json").read_text())["classes"]
    thresholds = {row["name"]: row["threshold"] for row in classes}
    thresholds = {name: 0.5 if value is None else value for name, value in thresholds.items()}
    assert list(read_checkpoint(weights).thresholds) == list(thresholds.values())

    shown = {}
    for threshold in ("auto", "0"):
        found = CliRunner().invoke(app, [*command, threshold, "--json", str(tmp_path / "found.json")])
        assert found.exit_code == 0, found.output
        document = json.loads((tmp_path / "found.json").read_text())
        shown[threshold] = [row for image in document["images"] for row in image["detections"]]
    assert document["threshold"] == 0
    expected = [row for row in shown["0"] if row["score"] > thresholds[row["name"]]]
    assert shown["auto"] == expected
    # what is shown are the right and the wrong ones of the table, of crowds there are none here
    assert len(expected) == sum(row["true_positives"] + row["false_positives"] for row in classes)
    assert sum(row["true_positives"] for row in classes) > 3


def test_thresholds_cannot_be_stored_in_foreign_files(folder, tmp_path):
    convert(folder / "tiny.pth", tmp_path / "hf")
    result = run(tmp_path / "hf", folder, "--save-thresholds")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("WeightsError: ")
    assert "AP" not in result.stdout  # said before the work
    export(folder / "tiny.pth", tmp_path / "tiny.onnx")
    result = run(tmp_path / "tiny.onnx", folder, "--save-thresholds")
    assert result.exit_code == 2
    assert "is an exported file, but thresholds are stored in checkpoints" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["{f}/tiny.pth", "{f}/none"], "DatasetError: no dataset"),
        (["{f}/tiny.pth", "{f}", "--font", "{f}/val.json"], "InputError: cannot read the font"),
        (["{f}/tiny.pth", "{f}", "--split", "train"], "has no annotations for 'train'"),
        (
            ["{f}/tiny.pth", "{f}", "--split", "vall"],
            "ConfigError: expected split 'train', 'val' or 'test', got 'vall'.",
        ),
        (["{f}/tiny.pth", "{f}", "--images", "{f}/none"], "DatasetError: expected a folder of images"),
        (["{f}/tiny.pth", "{f}", "--bad-boxes", "keep"], "ConfigError: expected 'error' or 'drop'"),
        (["{f}/tiny.pth", "{f}", "--tuned"], "tiny.pth --throughput --save-tuned"),
        (["{f}/tiny.pth", "{f}", "--size", "large"], "InputError: --size: expected a size like 640"),
        (["{f}/none.pth", "{f}"], "WeightsError: "),
        (["{f}/half.pth", "{f}"], "WeightsError: "),
        (["{f}/tiny.pth", "{f}", "--output", "{f}/tiny.pth"], "InputError: cannot write"),
        (["{f}/tiny.pth", "{f}", "--json", "{f}"], "it is a folder. Give the name of a file in it"),
        (["{f}/tiny.pth", "{f}", "--json", "{f}/tiny.pth/a.json"], "tiny.pth is a file, not a folder. Choose another"),
        (["{f}", "{f}/tiny.pth"], "It is named like a model: 'evaluate' and 'quantize' take MODEL before DATA"),
        (["{f}/tiny.pth", "{f}", "--size", "70"], "InputError: size_hw (--size): height and width must be multiples"),
    ],
)
def test_mistakes_are_reported_on_one_line(folder, arguments, problem):
    result = run(*(argument.format(f=folder) for argument in arguments))
    assert result.exit_code == 2
    assert problem in result.stderr
    assert len([line for line in result.stderr.splitlines() if not line.startswith("INFO: ")]) == 1


def test_a_bad_box_can_be_dropped(tmp_path, folder):
    content = many_images(3)
    content["annotations"][0]["bbox"][2] = 0
    _, file = write_dataset(tmp_path, content)
    refused = run(folder / "tiny.pth", file)
    assert refused.exit_code == 2
    assert "--bad-boxes drop" in refused.stderr
    assert run(folder / "tiny.pth", file, "--bad-boxes", "drop").exit_code == 0
