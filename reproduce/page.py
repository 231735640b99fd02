"""The report: everything a results folder holds on one self-contained HTML page, and its index in Markdown."""

from __future__ import annotations

import argparse
import base64
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from datamodules.files.sources import user_path
from reproduce.comparisons import Comparison
from reproduce.index import ResultsFolder, TableFiles, files_beside, read_results, render_index
from reproduce.published import PublishedError, load_sources
from reproduce.render import SECTION, best_shown, blocks_of, column_name, distinct
from reproduce.schema import DECIMALS, INTEGERS, METRICS, Row, TableError, replace_file, to_text

PROVENANCE = (
    *("value", "std", "seeds", "n_queries", "n_gallery", "published", "delta", "published_source"),
    *("train_seconds", "device", "torch", "git_commit", "config_hash", "note"),
)
STATUS = (("not_run", "Not run"), ("failed", "Failed"))
CAPTIONS = {"": "The numbers below, drawn by method", "gap": "The gap between modalities against retrieval, by method"}
Place = Callable[[Row], tuple[str, tuple[str, str]]]


def main(argv: list[str]) -> int:
    """Writes report.html and README.md of a results folder.

    Args:
        argv: words after ``python -m reproduce report``.

    Returns:
        0; 2 where a file of the folder cannot be used or the folder not be written to.
    """
    parser = argparse.ArgumentParser(
        prog="python -m reproduce report",
        description="Write <out>/report.html, one self-contained page of every table, comparison, claim and figure in "
        "the folder, and <out>/README.md, its index.",
    )
    parser.add_argument("--out", default="results", type=user_path, help="folder of the tables (default: results)")
    folder = parser.parse_args(argv).out
    try:
        results = read_results(folder)
        page, index = render_page(results), render_index(results)
        written = [replace_file(folder / "report.html", page), replace_file(folder / "README.md", index)]
    except (TableError, PublishedError) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2
    print(f"wrote {' and '.join(map(str, written))}")
    return 0


def render_page(results: ResultsFolder) -> str:
    """The page: summary, claims, then every table with its figures, comparisons, provenance and settings.

    It loads nothing: style, script and images are inside, and links lead to files beside it. The same results give the
    same bytes.

    Raises:
        TableError: a figure or a table's companion cannot be used.
    """
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    tables = [_table(table) for table in results.tables]
    return environment.get_template("page.html").render(tables=tables, claims=_claims(results))


def _claims(results: ResultsFolder) -> list[dict[str, Any]]:
    places = {table.path.name: f"#{_identifier(table)}" for table in results.tables}
    places |= {f"comparisons/{t.path.name}": f"#{_identifier(t)}-comparisons" for t in results.tables if t.comparisons}
    found = []
    for claim in results.claims:
        head, _, figures = claim.evidence.partition(". ")
        sources = [(name, places.get(name, quote(name))) for name in claim.sources.split()]
        lines = figures.split("; ") if figures else []
        found.append({"claim": claim.claim, "verdict": claim.verdict, "head": head, "lines": lines, "sources": sources})
    return found


def _identifier(table: TableFiles) -> str:
    return re.sub(r"[^\w-]", "-", table.name)


def _table(table: TableFiles) -> dict[str, Any]:
    identifier = _identifier(table)
    anchors = {row.identity: f"{identifier}-{number}" for number, row in enumerate(table.rows, 2)}
    # Measurements have a section per metric, with what was varied across.
    same = [name for name in SECTION if name not in ("features", "split")] + ["metric"] if table.measures else SECTION
    sections: dict[tuple, list[Row]] = {}
    for row in table.rows:
        if row.status == "ok":
            sections.setdefault(tuple(getattr(row, name) for name in same), []).append(row)
    return {
        "id": identifier,
        "files": table,
        "scales": distinct(row.scale for row in table.rows),
        "links": [(name, quote(name)) for name in files_beside(table)],
        "figures": [_figure(table, path) for path in table.figures],
        "sections": [_section(table, rows, anchors) for rows in sections.values()],
        "missing": _missing(table.rows),
        "comparisons": _comparisons(table.comparisons),
        "trials": _trials(table),
        "companion": _rest_of_companion(table),
    }


def _figure(table: TableFiles, path: Path) -> dict[str, str]:
    try:
        image = base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror}); run the table again to draw it.") from error
    what = path.stem.removeprefix(table.name).strip("_").replace("_", " ")
    caption = CAPTIONS.get(what, what.capitalize())
    return {"uri": f"data:image/png;base64,{image}", "caption": caption, "alt": f"{table.title}. {caption}."}


def _section(table: TableFiles, rows: list[Row], anchors: dict[tuple, str]) -> dict[str, Any]:
    place = _measured if table.measures else _retrieved
    if table.measures:
        title, blocks = f"{rows[0].metric}, {rows[0].dataset}", [_block(rows, anchors, place)]
    else:
        names = [rows[0].dataset, rows[0].features, rows[0].split, rows[0].gallery, rows[0].protocol]
        title = ", ".join(name for name in names if name != "full")
        blocks = [_block(block, anchors, place) for block in blocks_of(rows)]
        _train_seconds(rows, blocks[-1])
    return {
        "title": title,
        "synthetic": rows[0].data_kind == "synthetic",
        "facts": [(name.replace("_", " "), distinct(getattr(row, name) for row in rows)) for name in SECTION],
        "blocks": blocks,
        "remarks": _remarks(rows),
        "provenance": _provenance(rows, anchors, table.command, place),
    }


def _retrieved(row: Row) -> tuple[str, tuple[str, str]]:
    """Line and two-line column of a number: methods down, directions and metrics across."""
    return row.method, (row.direction, column_name(row).removeprefix(row.direction).strip())


def _measured(row: Row) -> tuple[str, tuple[str, str]]:
    """The same of a measurement: methods with what they were given down, what was varied across."""
    return f"{row.method}, {row.features}", ("", row.split)


def _block(rows: list[Row], anchors: dict[tuple, str], place: Place) -> dict[str, Any]:
    """Rows as a table; each number has a link to its line of provenance."""
    names = distinct(place(row)[0] for row in rows)
    columns: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        name, column = place(row)
        columns.setdefault(column, {})[name] = row
    header: list[dict[str, str]] = []
    body: list[list[dict[str, Any]]] = [[] for _ in names]
    for (above, label), column in columns.items():
        found = list(column.values())
        order = "descending" if METRICS[found[0].metric].higher_is_better else "ascending"
        beside = any(row.published is not None for row in found)
        for text in (label, f"published {label}", "ours − published")[: 3 if beside else 1]:
            header.append({"above": above, "label": text, "first": order})
        best = best_shown(found) if place is _retrieved else None
        for line, name in zip(body, names, strict=True):
            line += _cells(column.get(name), best, beside, anchors)
    return {"header": header, "body": list(zip(names, body, strict=True))}


def _cells(row: Row | None, best: str | None, beside: bool, anchors: dict[tuple, str]) -> list[dict[str, Any]]:
    if row is None:
        return [{"text": None, "value": ""}] * (3 if beside else 1)
    text = METRICS[row.metric].text
    shown = text(row.value)
    number = {
        "text": shown,
        "spread": "" if row.std is None else text(row.std, of=row.value),
        "value": row.value,
        "best": shown == best,
        "anchor": anchors[row.identity],
        "title": _hover(row),
    }
    if not beside:
        return [number]
    if row.published is None:
        return [number, {"text": None, "value": ""}, {"text": None, "value": ""}]
    sign = "−" if row.delta < 0 else "+"
    delta = {"text": sign + text(abs(row.delta), of=row.value), "value": row.delta}
    return [number, {"text": text(row.published), "value": row.published}, delta]


def _train_seconds(rows: list[Row], block: dict[str, Any]) -> None:
    seconds = {row.method: row.train_seconds for row in reversed(rows) if row.train_seconds is not None}
    if seconds:
        block["header"].append({"above": "training", "label": "seconds", "first": "ascending"})
        for method, line in block["body"]:
            text = f"{seconds[method]:.1f}" if method in seconds else None
            line.append({"text": text, "value": seconds.get(method, "")})


def _hover(row: Row) -> str:
    names = ("value", "std", "seeds", "n_queries", "n_gallery", "config_hash", "git_commit", "device", "torch")
    return "\n".join(f"{name}: {_exact(row, name)}" for name in names if _exact(row, name))


def _exact(row: Row, name: str) -> str:
    """A column as its CSV has it."""
    return to_text(name, getattr(row, name))


def _provenance(rows: list[Row], anchors: dict[tuple, str], command: str, place: Place) -> dict[str, Any]:
    """A line per number; what all have in common stands once, above."""
    values = {name: distinct(_exact(row, name) for row in rows) for name in PROVENANCE}
    common = {
        name: found[0]
        for name, found in values.items()
        if len(found) == 1 and name != "value" and all(_exact(row, name) for row in rows)
    }
    kinds = {"note": "note"} | dict.fromkeys((*DECIMALS, *INTEGERS), "")
    columns = [(name, kinds.get(name, "text")) for name, found in values.items() if found and name not in common]
    lines = []
    for row in rows:
        cells = [(_exact(row, name), kind) for name, kind in columns]
        name, column = place(row)
        number = " ".join(filter(None, column))
        lines.append({"anchor": anchors[row.identity], "method": name, "number": number, "cells": cells})
    return {"common": common | ({"command": command} if command else {}), "columns": columns, "lines": lines}


def _remarks(rows: list[Row]) -> list[str]:
    """Gallery sizes, notes and citations of a section, each once."""
    sizes: dict[str, list[str]] = {}
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row.n_queries and row.n_gallery:
            sizes.setdefault(f"{row.n_queries} queries, {row.n_gallery} in the gallery", []).append(row.direction)
        if row.note:
            notes.setdefault(row.note, []).append(row.method)
    remarks = [
        f"{size}." if len(sizes) == 1 else f"{', '.join(distinct(directions))}: {size}."
        for size, directions in sizes.items()
    ]
    everyone = distinct(row.method for row in rows)
    for note, methods in notes.items():
        named = distinct(methods)
        remarks.append(f"{'All methods' if named == everyone else ', '.join(named)}: {note}.")
    for reference in distinct(row.published_source for row in rows):
        remarks.append(f"Published: {reference}. {load_sources().get(reference.partition(',')[0], '')}".strip())
    return remarks


def _missing(rows: list[Row]) -> list[dict[str, Any]]:
    """Rows without a number: for each status and reason, how many and what they have in common."""
    reasons: dict[tuple[str, str], list[Row]] = {}
    for status, heading in STATUS:
        for row in rows:
            if row.status == status:
                reasons.setdefault((heading, row.note), []).append(row)
    names = (*SECTION, "method")
    return [
        {
            "heading": heading,
            "reason": note,
            "count": len(found),
            "facts": [(name.replace("_", " "), distinct(getattr(row, name) for row in found)) for name in names],
        }
        for (heading, note), found in reasons.items()
    ]


def _comparisons(comparisons: list[Comparison]) -> list[dict[str, Any]]:
    """A block per metric, protocol and scale; intervals are placed on one axis, in percent of its width."""
    least = min((min(item.low, 0.0) for item in comparisons), default=0.0)
    span = max((max(item.high, 0.0) for item in comparisons), default=0.0) - least or 1.0
    blocks: dict[tuple, list[dict[str, Any]]] = {}
    for item in comparisons:
        ends = {"low": item.low, "high": item.high, "middle": item.difference, "zero": 0.0}
        places = {name: f"{4 + 92 * (value - least) / span:.1f}%" for name, value in ends.items()}
        key = (item.metric, item.protocol, item.scale, item.data_kind)
        blocks.setdefault(key, []).append({"item": item, "places": places})
    return [
        {"metric": metric, "protocol": protocol, "scale": scale, "synthetic": kind == "synthetic", "lines": lines}
        for (metric, protocol, scale, kind), lines in blocks.items()
    ]


def _trials(table: TableFiles) -> list[dict[str, Any]]:
    """The settings tried on validation data, those chosen marked."""
    found = []
    try:
        for data, methods in (table.companion.get("chosen_on_validation") or {}).items():
            for method, entry in methods.items():
                for trial in entry["trials"]:
                    setting = {name: value for name, value in trial.items() if name != "validation MAP"}
                    chosen = setting == entry["chosen"]
                    score = float(trial["validation MAP"])
                    line = {"data": data, "method": method, "setting": _flat(setting), "score": score}
                    found.append(line | {"chosen": chosen})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        path = table.path.with_suffix(".yaml")
        raise TableError(
            f"{path}: chosen_on_validation is not as it was written ({error!r}); run the table again."
        ) from error
    return found


def _flat(setting: dict[str, Any], prefix: str = "") -> str:
    parts = [
        _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else f"{prefix}{name} = {value}"
        for name, value in setting.items()
    ]
    return ", ".join(parts)


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _rest_of_companion(table: TableFiles) -> str:
    rest = {k: v for k, v in table.companion.items() if k not in ("table", "command", "chosen_on_validation")}
    return yaml.dump(rest, Dumper=_NoAliases, sort_keys=False, allow_unicode=True, width=100) if rest else ""
