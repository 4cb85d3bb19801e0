"""`rtdetr models`: the zoo as a table."""

import json
from typing import Annotated, Any

import typer


def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """List the models, their published accuracy and where their weights come from."""
    rows = _rows()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    header = {
        "full_name": "model",
        "ap": "AP",
        "ap50": "AP50",
        "training_data": "trained on",
        "url": "url",
    }
    lines = [header, *rows]
    widths = {key: max(len(_text(line[key])) for line in lines) for key in header}
    for line in lines:
        typer.echo("  ".join(_text(line[key]).ljust(width) for key, width in widths.items()).rstrip())
    typer.echo("\nAP and AP50: the publisher's, in percent on COCO val2017. Aliases and licences: rtdetr models --json")


def _rows() -> list[dict[str, Any]]:
    """One row for each weight file; a model without published weights has one row of empty cells."""
    from rtdetr import zoo

    rows = []
    for name in zoo.list_models():
        aliases = [alias for alias, target in zoo.ALIASES.items() if target == name]
        checkpoints = zoo.entry(name).checkpoints
        for tag, file in checkpoints.items():
            rows.append({"name": name, "aliases": aliases, "tag": tag, "full_name": zoo.full_name(name, tag)})
            rows[-1] |= file._asdict()
        if not checkpoints:
            rows.append({"name": name, "aliases": aliases, "tag": None, "full_name": zoo.full_name(name, None)})
            rows[-1] |= {**dict.fromkeys(zoo.Checkpoint._fields), "note": "no published weights"}
    return rows


def _text(value: object) -> str:
    return "-" if value is None else str(value)
