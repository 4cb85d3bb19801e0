"""Complete demo: draw a dataset, train from scratch, evaluate and detect. Results go to ./demo.

    python examples/demo/run.py [--folder demo]

It takes about three minutes on two CPU cores and downloads nothing.
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from make_dataset import PARAMETERS_FILE, make_dataset
from PIL import Image

NUM_IMAGES = 12


def contact_sheet(files: list[Path], path: Path, *, columns: int = 4, side: int = 320) -> None:
    """Arrange images in a grid and save it as one image."""
    rows = -(-len(files) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side), "white")
    for i, file in enumerate(files):
        with Image.open(file) as image:
            image.thumbnail((side - 8, side - 8))
            sheet.paste(image, (i % columns * side + 4, i // columns * side + 4))
    sheet.save(path)


def command(*arguments: str) -> None:
    """Run an `rtdetr` command in a separate process, as a user would type it."""
    print("\n$ rtdetr " + " ".join(arguments), flush=True)
    process = subprocess.Popen([sys.executable, "-m", "rtdetr", *arguments])
    try:
        status = process.wait()
    except KeyboardInterrupt:
        status = process.wait()  # it received the signal too: training saves its state and prints how to resume
    if status:
        sys.exit(status)


def check_folder(folder: Path) -> None:
    """Check that the results to be replaced are from an earlier demo."""
    if (folder / "data" / PARAMETERS_FILE).is_file():
        return
    for name in ("run", "images"):
        if (folder / name).exists():
            sys.exit(f"{folder / name} exists and is not from an earlier demo: remove it, or choose another --folder")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="output folder")
    parser.add_argument("--epochs", type=int, help="training epochs; default: from the recipe")
    options = parser.parse_args()
    begin = time.perf_counter()
    folder: Path = options.folder

    check_folder(folder)
    print("drawing the dataset ...", flush=True)
    data = make_dataset(folder / "data")
    run, sheet = folder / "run", folder / "detections.png"
    length = [] if options.epochs is None else ["--epochs", str(options.epochs)]
    if (run / "last.pth").is_file() and not sheet.exists():
        print("resuming the training of an interrupted demo", flush=True)
        command("train", "--resume", str(run), *length)
    else:
        sheet.unlink(missing_ok=True)
        shutil.rmtree(run, ignore_errors=True)  # from an earlier demo
        # float32 is faster than 16 bits for a model as small as this one
        training = "--model demo --recipe published --precision float32 --workers 0".split()
        command("train", str(data), *training, "--output", str(run), *length)

    weights = str(run / "best.pth")
    command("evaluate", weights, str(data))
    shutil.rmtree(folder / "images", ignore_errors=True)
    held_out = sorted((data / "images" / "val").glob("*.jpg"))[:NUM_IMAGES]
    # after a training as short as this, some objects are found twice, which costs about 4 AP50; NMS removes these
    found = ("--threshold", "auto", "--nms", "0.7", "--save", str(folder / "images"))
    command("predict", *map(str, held_out), "--model", weights, *found, "--json", str(folder / "detections.json"))
    contact_sheet(sorted((folder / "images").iterdir()), sheet)

    print(f"\ndone in {time.perf_counter() - begin:.0f} s")
    print(f"learning curve: {run / 'learning_curve.png'}\nreport of the run: {run / 'report.html'}")
    print(f"annotated validation images: {sheet}")


if __name__ == "__main__":
    main()
