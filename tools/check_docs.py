"""Check the documentation: relative links are valid and docs/models.md matches the zoo.

python tools/check_docs.py            fails if a check fails
python tools/check_docs.py --write    first writes docs/models.md from the zoo
"""

import re
import sys
from pathlib import Path

import torch

import rtdetr

REPOSITORY = Path(__file__).parents[1]
MODELS_PAGE = REPOSITORY / "docs" / "models.md"
HEAD = """# Models

Choose a model by its accuracy and size:

```bash
rtdetr models
```

Use the name in the first column to select weights, as in `rtdetr predict --model NAME`, `rtdetr train --weights NAME`
or `rtdetr.load("NAME")`. If a model has several weight files, the name of each further file ends with a colon and a
tag. `NAME:untrained` is any of these models with random weights. `rtdetrv2_r18vd_120e_voc` is `rtdetrv2_r18vd` with the
recipe for Pascal VOC, for which no weights are published.

AP and AP50 are published values in percent on COCO val2017. Parameters are those of the network during training, in
millions. `rtdetr models --json` also prints the license of each file. `python tools/check_docs.py --write` writes this
page from `src/rtdetr/zoo.py`.

| name | other names | parameters | AP | AP50 | weights | trained on |
|---|---|---:|---:|---:|---|---|
"""


def models_page() -> str:
    """Return the text of docs/models.md, with one row per weight file of the zoo."""
    rows = []
    for name in rtdetr.list_models():
        with torch.device("meta"):
            parameters = sum(p.numel() for p in rtdetr.build_model(name).parameters())
        checkpoints = rtdetr.zoo.entry(name).checkpoints
        for tag, file in checkpoints.items():
            others = ", ".join(f"`{alias}`" for alias in rtdetr.zoo.aliases(name, tag))
            weights = f"[{file.filename}]({file.url})" if file.url else file.note
            numbers = f"{parameters / 1e6:.1f} | {file.ap} | {file.ap50 or ''}"
            rows.append(
                f"| `{rtdetr.zoo.full_name(name, tag)}` | {others} | {numbers} | {weights} | {file.training_data} |"
            )
        if not checkpoints:
            rows.append(f"| `{rtdetr.zoo.full_name(name, None)}` | | {parameters / 1e6:.1f} | | | none published | |")
    return HEAD + "\n".join(rows) + "\n"


def broken_links(page: Path) -> list[str]:
    """Return one line per relative link of a Markdown file that has no target."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    return [
        f"{page.relative_to(REPOSITORY)}: broken link {link}" for link in local if not (page.parent / link).exists()
    ]


def main() -> int:
    """Print all problems; return 1 if there are any."""
    if "--write" in sys.argv[1:]:
        MODELS_PAGE.write_text(models_page())
    folders = (".", ".github", "docs", "benchmarks", "examples", "recipes")
    pages = [p for folder in folders for p in (REPOSITORY / folder).glob("*.md" if folder == "." else "**/*.md")]
    problems = [problem for page in sorted(pages) for problem in broken_links(page)]
    if not MODELS_PAGE.exists() or MODELS_PAGE.read_text() != models_page():
        problems.append("docs/models.md is out of date. Run: python tools/check_docs.py --write")
    print("\n".join(problems) or f"{len(pages)} pages: links and model table are correct")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
