"""MkDocs hooks: add pages from outside docs/, and link to repository files that are not pages.

Pages in docs/ link to any file of the repository as on GitHub, for example ../examples/triton/README.md. On the site,
the files in `PAGES`, including notebooks, become pages, and all other linked files are copied unchanged.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files  # pyright: ignore[reportMissingImports] (installed in .venv-docs)

REPOSITORY = Path(__file__).parents[1]
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",  # the site has its own landing page
    "benchmarks/README.md": "benchmarks.md",
}
PAGES |= {
    f"examples/notebooks/{path.name}": f"notebooks/{path.stem}.md"
    for path in sorted((REPOSITORY / "examples" / "notebooks").glob("*.ipynb"))
}
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: Any) -> Files:
    """Add pages from outside docs/, and the files that pages link to."""
    for source, page in PAGES.items():
        if source != "README.md":
            text = (REPOSITORY / source).read_text(encoding="utf-8")
            content = notebook_page(text) if source.endswith(".ipynb") else text
            files.append(File.generated(config, page, content=content))
    for file in files.documentation_pages():
        source = _source_of(file.src_uri)
        for link in _LINK.finditer(file.content_string):
            target = _repository_path(source, link[2])
            if target and target not in PAGES and not target.startswith("docs/"):
                uri = f"files/{target}"
                if (REPOSITORY / target).is_file() and files.get_file_from_path(uri) is None:
                    files.append(File.generated(config, uri, abs_src_path=str(REPOSITORY / target)))
    return files


def notebook_page(text: str) -> str:
    """Return a notebook as Markdown: text, code, what the code printed, and images."""
    parts: list[str] = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
        for output in cell.get("outputs", []):
            jpeg = output.get("data", {}).get("image/jpeg")
            if jpeg:
                parts.append(f"![What the cell shows](data:image/jpeg;base64,{''.join(jpeg.split())})")
            elif "text" in output:
                parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Convert links of the repository to links of the site."""
    source = _source_of(page.file.src_uri)

    def on_site(link: re.Match[str]) -> str:
        target = _repository_path(source, link[2])
        if not target:
            return link[0]
        uri = PAGES.get(target) or target.removeprefix("docs/")
        uri = uri if target in PAGES or target.startswith("docs/") else f"files/{target}"
        start = posixpath.dirname(page.file.src_uri) or "."
        anchor = "" if target == "README.md" else link[3] or ""
        return f"{link[1]}{posixpath.relpath(uri, start)}{anchor}{link[4]}"

    return _LINK.sub(on_site, markdown)


def _source_of(uri: str) -> str:
    """Return the path in the repository of a page of the site."""
    if uri.startswith("files/"):
        return uri.removeprefix("files/")
    return next((source for source, page in PAGES.items() if page == uri and page != "index.md"), f"docs/{uri}")


def _repository_path(source: str, link: str) -> str:
    """Return the path in the repository that a link points to; empty for URLs and missing files."""
    if "://" in link or link.startswith(("mailto:", "data:", "/")):
        return ""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    return "" if target.startswith("..") or not (REPOSITORY / target).exists() else target
