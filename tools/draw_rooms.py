"""Draw the rooms of src/rtdetr and their imports as docs/images/rooms.svg.

    python tools/draw_rooms.py            # write the image
    python tools/draw_rooms.py --check    # fail if it is out of date

A room is a folder of src/rtdetr; the files next to the folders are drawn as one room. An arrow means that a room
imports another. Arrows that follow from others (A to C if A imports B and B imports C) and those to and from the single
files are omitted. Rooms are arranged in rows, and every arrow points to a lower row.
"""

import argparse
import ast
import sys
from html import escape
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "src" / "rtdetr"
IMAGE = REPOSITORY / "docs" / "images" / "rooms.svg"
ENTRY = ("api", "comparison", "__init__", "__main__")  # user entry points, drawn with the command line
FILES = "single files"
ROOMS = {  # short description of each room
    "cli": "commands, train, compare",
    "hf": "Hugging Face classes",
    "export": "files for other runtimes",
    "benchmark": "measured speed",
    "training": "loop, step, checkpoints",
    "recipes": "settings, named recipes",
    "reports": "pages, curves, metrics",
    "evaluation": "AP, errors, thresholds",
    "runtimes": "rtdetr.load: detectors",
    "weights": "files, download, transfer",
    "models": "the network",
    "losses": "matcher, criterion",
    "data": "formats, doctor, batches",
    "published": "published YAML files",
    "images": "opening images",
    "fonts": "text in images",
    FILES: "config, zoo, detections, errors, ...",
}
BOX, GAP, ROW = (168, 52), 28, 104  # in pixels: box width and height, gap between boxes, row distance


def imports() -> dict[str, set[str]]:
    """Return the rooms that each room imports, in any of its files."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for file in sorted(PACKAGE.rglob("*.py")):
        room = room_of(file.relative_to(PACKAGE).parts[0].removesuffix(".py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "rtdetr":
                parts = (node.module or "").split(".")
                names = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
                found[room] |= {room_of(name) for name in names}
    return {room: set() if room == FILES else targets - {room, FILES} for room, targets in found.items()}


def room_of(name: str) -> str:
    """Return the room of a folder or file in src/rtdetr."""
    return "cli" if name in ENTRY else name if name in ROOMS else FILES


def drawn(found: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the transitive reduction of the imports."""

    def reachable(room: str) -> set[str]:
        return set().union(*({target} | reachable(target) for target in found[room]))

    return {
        room: {target for target in targets if not any(target in reachable(other) for other in targets)}
        for room, targets in found.items()
    }


def rows(found: dict[str, set[str]]) -> list[list[str]]:
    """Return the rows of rooms from top to bottom; each room is above all rooms that it imports."""

    def height(room: str) -> int:
        return max((1 + height(target) for target in found[room]), default=0)

    heights = {room: height(room) for room in ROOMS}
    return [[room for room in ROOMS if heights[room] == level] for level in range(max(heights.values()), -1, -1)]


def svg() -> str:
    """Return the image as SVG."""
    found = imports()
    ordered = rows(found)
    columns = max(map(len, ordered))
    width = columns * (BOX[0] + GAP) + GAP
    left = dict.fromkeys(ROOMS, 0.0)
    top = dict.fromkeys(ROOMS, 0)
    for number, row in enumerate(ordered):
        start = (width - len(row) * (BOX[0] + GAP) + GAP) / 2
        for place, room in enumerate(row):
            left[room], top[room] = start + place * (BOX[0] + GAP), GAP + number * ROW
    lines = []
    for room, targets in drawn(found).items():
        for target in sorted(targets):
            x1, y1 = left[room] + BOX[0] / 2, top[room] + BOX[1]
            x2, y2 = left[target] + BOX[0] / 2, top[target]
            bend = (y2 - y1) / 2
            lines.append(
                f'<path d="M{x1:g} {y1:g}C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2:g}" '
                'marker-end="url(#head)"/>'
            )
    boxes = []
    for room, purpose in ROOMS.items():
        x, y, center = left[room], top[room], left[room] + BOX[0] / 2
        boxes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{BOX[0]}" height="{BOX[1]}" rx="6"/>'
            f'<text class="name" x="{center:g}" y="{y + 21:g}">{escape(room)}</text>'
            f'<text x="{center:g}" y="{y + 39:g}">{escape(purpose)}</text>'
        )
    height = 2 * GAP + (len(ordered) - 1) * ROW + BOX[1]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            'aria-label="Rooms of the package and their imports">',
            "<style>text{font:11px sans-serif;text-anchor:middle;fill:#333}.name{font:bold 14px sans-serif}"
            "rect{fill:#eef3fb;stroke:#4a6fa5}path{fill:none;stroke:#7a8ba6;stroke-width:1.2}</style>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto">'
            '<polygon points="0,0 8,4 0,8" fill="#7a8ba6"/></marker></defs>',
            f'<rect x="0" y="0" width="{width}" height="{height}" style="fill:#fff;stroke:none"/>',
            *lines,
            *boxes,
            "</svg>\n",
        ]
    )


def main() -> int:
    """Write the image, or check it."""
    parser = argparse.ArgumentParser(description="Draw the rooms of the package and their imports.")
    parser.add_argument("--check", action="store_true", help="fail if the image is out of date; write nothing")
    image = svg()
    if parser.parse_args().check:
        is_current = IMAGE.is_file() and IMAGE.read_text(encoding="utf-8") == image
        if not is_current:
            sys.stderr.write(f"{IMAGE.relative_to(REPOSITORY)} is out of date. Run: python tools/draw_rooms.py\n")
        return 0 if is_current else 1
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    IMAGE.write_text(image, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
