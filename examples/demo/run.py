"""The whole journey on a dataset that is drawn here: train from scratch, measure, detect. Results go to ./demo.

    python examples/demo/run.py [--folder demo]

Takes less than eight minutes on two CPU cores. Nothing is downloaded.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from make_dataset import PARAMETERS_FILE, make_dataset
from PIL import Image

NUM_PICTURES = 12


def contact_sheet(pictures: list[Path], path: Path, *, columns: int = 4, side: int = 320) -> None:
    """Put pictures side by side into one."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side), "white")
    for i, picture in enumerate(pictures):
        with Image.open(picture) as image:
            image.thumbnail((side - 8, side - 8))
            sheet.paste(image, (i % columns * side + 4, i // columns * side + 4))
    sheet.save(path)


def command(*arguments: str) -> None:
    """Run an `rtdetr` command in a process of its own, as a user would type it."""
    print("\n$ rtdetr " + " ".join(arguments), flush=True)
    process = subprocess.Popen([sys.executable, "-m", "rtdetr", *arguments])
    try:
        status = process.wait()
    except KeyboardInterrupt:
        status = process.wait()  # it got the signal too; a training saves its state and says how to go on
    if status:
        sys.exit(status)


def check_folder(folder: Path) -> None:
    """See that the results that will be replaced are those of an earlier demo."""
    if (folder / "data" / PARAMETERS_FILE).is_file():
        return
    for name in ("run", "images"):
        if (folder / name).exists():
            sys.exit(f"{folder / name} exists and is not of an earlier demo. Remove it, or choose another --folder")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where everything is written")
    parser.add_argument("--epochs", type=int, help="length of the training; default: the recipe's")
    options = parser.parse_args()
    begin = time.perf_counter()
    folder: Path = options.folder

    check_folder(folder)
    print("drawing the dataset ...", flush=True)
    data = make_dataset(folder / "data")
    run, sheet = folder / "run", folder / "pictures.png"
    length = [] if options.epochs is None else ["--epochs", str(options.epochs)]
    if (run / "last.pth").is_file() and not sheet.exists():
        print("an earlier demo was interrupted; its training goes on", flush=True)
        command("train", "--resume", str(run), *length)
    else:
        sheet.unlink(missing_ok=True)
        shutil.rmtree(run, ignore_errors=True)  # of an earlier demo, which this one repeats
        # two processes that share each batch use two cores better than one process with two threads
        processes = str(min(2, os.cpu_count() or 1))
        training = ["--model", "demo", "--output", str(run), "--workers", "0", "--processes", processes]
        command("train", str(data), *training, *length)

    weights = str(run / "best.pth")
    command("evaluate", weights, str(data))
    shutil.rmtree(folder / "images", ignore_errors=True)
    held_out = sorted((data / "images" / "val").glob("*.jpg"))[:NUM_PICTURES]
    options_of_predict = ("--model", weights, "--save", str(folder / "images"))
    command("predict", *map(str, held_out), *options_of_predict, "--json", str(folder / "detections.json"))
    contact_sheet(sorted((folder / "images").iterdir()), sheet)

    print(f"\ndone in {time.perf_counter() - begin:.0f} s")
    print(f"learning curve: {run / 'learning_curve.png'}\nreport of the run: {run / 'report.html'}")
    print(f"annotated held-out pictures: {sheet}")


if __name__ == "__main__":
    main()
