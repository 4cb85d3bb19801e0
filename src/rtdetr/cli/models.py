"""`rtdetr models`: list the model zoo."""

from typing import Any

from rtdetr.cli.arguments import JsonFlag
from rtdetr.cli.output import echo, write_json
from rtdetr.wording import text_table

COLUMNS = {"full_name": "model", "ap": "AP", "ap50": "AP50", "training_data": "trained on", "url": "url"}


def models(as_json: JsonFlag = False) -> None:
    """List models, their accuracy and their weights.

    AP and AP50 are the published values, in percent on COCO val2017. --json adds aliases and licenses.
    """
    rows = _rows()
    if as_json:
        write_json(rows, "-")
        return
    cells = [["-" if row[key] is None else str(row[key]) for key in COLUMNS] for row in rows]
    echo(text_table([list(COLUMNS.values()), *cells], right=[False] * len(COLUMNS)))
    echo("\nAP and AP50: published values, in percent on COCO val2017. Aliases and licenses: rtdetr models --json")


def _rows() -> list[dict[str, Any]]:
    """One row per weight file; a model without published weights has one row of empty cells."""
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
