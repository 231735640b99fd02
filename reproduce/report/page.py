"""The report: everything a results folder holds on one self-contained HTML page, and its index in Markdown."""

from __future__ import annotations

import argparse
import base64
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from datamodules.files.sources import user_path
from reproduce.report.index import ResultsFolder, TableFiles, read_results, render_index
from reproduce.report.markdown import best_shown, blocks_of
from reproduce.results.companion import dump_yaml
from reproduce.results.metrics import METRICS, metric_name
from reproduce.results.published import citations_of
from reproduce.results.schema import TableError, replace_file
from reproduce.results.shown import SECTION, distinct, measured_by, missing_of, notes_of, sections, sizes_of

PROVENANCE = (
    *("value", "std", "seeds", "n_queries", "n_gallery", "config_hash", "git_commit", "device", "torch"),
    "train_seconds",
)
CAPTIONS = {"": "The numbers below, drawn by method", "gap": "The gap between modalities against retrieval, by method"}


def main(argv: list[str]) -> int:
    """Write runs/report.html and README.md of a results folder.

    Args:
        argv: words after ``python -m reproduce report``.

    Returns:
        0; 2 where a file of the folder cannot be used or the folder not be written to.
    """
    parser = argparse.ArgumentParser(
        prog="python -m reproduce report",
        description="Write <out>/runs/report.html, one self-contained page of every table, comparison, claim and "
        "figure in the folder, and <out>/README.md, its index.",
    )
    parser.add_argument("--out", default="results", type=user_path, help="folder of the tables (default: results)")
    folder = parser.parse_args(argv).out
    try:
        results = read_results(folder)
        pages = {"runs/report.html": render_page(results), "README.md": render_index(results)}
        written = [replace_file(folder / name, page) for name, page in pages.items()]
    except TableError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2
    print(f"wrote {' and '.join(map(str, written))}")
    return 0


def render_page(results: ResultsFolder) -> str:
    """The page: summary, claims, then every table with its figures, comparisons and settings.

    It loads nothing: style, script and images are inside, and links lead to the files. The same results give the same
    bytes.

    Raises:
        TableError: a figure or a table's companion cannot be used.
    """
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    claims = [] if results.claims is None else [_claim(claim) for claim in results.claims.itertuples()]
    return environment.get_template("page.html").render(tables=[_table(t) for t in results.tables], claims=claims)


def _claim(claim: Any) -> dict[str, Any]:
    head, *lines = claim.evidence.splitlines()
    links = [(name, _link(name)) for name in claim.sources.split()]
    return {"claim": claim.claim, "verdict": claim.verdict, "head": head, "lines": lines, "sources": links}


def _link(name: str) -> str:
    """From the page to a file of the results folder."""
    return f"../{quote(name)}"


def _table(table: TableFiles) -> dict[str, Any]:
    # Measurements have a section per metric, with what was varied across.
    varied = ("features", "condition", "split") if table.measures else ()
    same = [name for name in (*SECTION, *["metric"] * table.measures) if name not in varied]
    return {
        "id": re.sub(r"[^\w-]", "-", table.name),
        "files": table,
        "scales": distinct(table.rows["scale"]),
        "links": [(name, _link(name)) for name in table.files],
        "figures": [_figure(table, path) for path in table.figures],
        "sections": [_section(rows, table.measures) for rows in sections(table.rows, same)],
        "missing": [
            {"heading": heading, "reason": note, "count": len(rows), "facts": _facts(rows, *SECTION, "method")}
            for heading, note, rows in missing_of(table.rows)
        ],
        "comparisons": _comparisons(table.comparisons),
        "trials": list(_trials(table)),
        "companion": dump_yaml({k: v for k, v in table.companion.items() if k not in ("table", "command")}),
    }


def _figure(table: TableFiles, path: Path) -> dict[str, str]:
    try:
        image = base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror}); run the table again to draw it.") from error
    what = path.stem.removeprefix(table.name).strip("_").replace("_", " ")
    caption = CAPTIONS.get(what, what.capitalize())
    return {"uri": f"data:image/png;base64,{image}", "caption": caption, "alt": f"{table.title}. {caption}."}


def _section(rows: pd.DataFrame, measures: bool) -> dict[str, Any]:
    first = next(rows.itertuples())
    if measures:
        title = f"{first.metric}, {first.dataset}"
        beside, varied = measured_by(first)
        blocks = [rows.assign(line=rows["method"] + ", " + rows[beside], above="", label=rows[varied])]
    else:
        names = [first.dataset, first.features, first.condition, first.split, first.gallery, first.protocol]
        title = ", ".join(name for name in names if name not in ("", "full"))
        labels = [metric_name(*each) for each in zip(rows["metric"], rows["k"], strict=True)]
        blocks = blocks_of(rows.assign(line=rows["method"], above=rows["direction"], label=labels))
    return {
        "title": title,
        "synthetic": first.data_kind == "synthetic",
        "facts": _facts(rows, *SECTION),
        "blocks": [_block(block, with_best=not measures) for block in blocks],
        "remarks": list(_remarks(rows)),
    }


def _facts(rows: pd.DataFrame, *columns: str) -> list[tuple[str, list[str]]]:
    """What rows have in common: each column in words, with all its values."""
    return [(name.replace("_", " "), distinct(rows[name])) for name in columns]


def _block(rows: pd.DataFrame, with_best: bool) -> dict[str, Any]:
    """Rows as a table: methods down, directions and metrics across; each number says where it comes from."""
    header: list[dict[str, str]] = []
    body: dict[str, list[dict[str, Any]]] = {name: [] for name in distinct(rows["line"])}
    for (above, label), column in rows.groupby(["above", "label"], sort=False):
        cells = {row.line: row for row in column.itertuples()}
        metric = METRICS[column["metric"].iloc[0]]
        beside = bool(column["published"].notna().any())
        for text in (label, f"published {label}", "ours − published")[: 3 if beside else 1]:
            header.append(
                {"above": above, "label": text, "first": "descending" if metric.higher_is_better else "ascending"}
            )
        best = best_shown(column) if with_best else None
        for name, line in body.items():
            line += _cells(cells.get(name), best, beside)
    return {"header": header, "body": list(body.items())}


def _cells(row: Any, best: str | None, beside: bool) -> Iterator[dict[str, Any]]:
    nothing = {"text": None, "value": ""}
    if row is None:
        yield from [nothing] * (3 if beside else 1)
        return
    text = METRICS[row.metric].text
    spread = "" if pd.isna(row.std) else text(row.std, of=row.value)
    exact = [f"{name}: {getattr(row, name)}" for name in PROVENANCE if not pd.isna(getattr(row, name))]
    shown = text(row.value)
    yield {"text": shown, "spread": spread, "value": row.value, "best": shown == best, "title": "\n".join(exact)}
    if beside and pd.isna(row.published):
        yield from [nothing] * 2
    elif beside:
        yield {"text": text(row.published), "value": row.published}
        yield {"text": ("−" if row.delta < 0 else "+") + text(abs(row.delta), of=row.value), "value": row.delta}


def _remarks(rows: pd.DataFrame) -> Iterator[str]:
    """Gallery sizes, notes and citations of a section, each once."""
    sizes = sizes_of(rows)
    for size, directions in sizes.items():
        yield f"{size}." if len(sizes) == 1 else f"{', '.join(directions)}: {size}."
    for note, methods in notes_of(rows).items():
        yield f"{'All methods' if methods == distinct(rows['method']) else ', '.join(methods)}: {note}."
    for reference, cited in citations_of(rows).items():
        yield f"Published: {reference}. {cited}".strip()


def _comparisons(table: pd.DataFrame | None) -> list[dict[str, Any]]:
    """A block per metric, protocol and scale; intervals are placed on one axis, in percent of its width."""
    if table is None or table.empty:
        return []
    least = min(table["low"].min(), 0.0)
    span = max(table["high"].max(), 0.0) - least or 1.0

    def place(value: float) -> str:
        return f"{4 + 92 * (value - least) / span:.1f}%"

    blocks = []
    for key, rows in table.groupby(["metric", "protocol", "scale", "data_kind"], sort=False):
        lines = []
        for item in rows.itertuples():
            ends = {"low": item.low, "high": item.high, "middle": item.difference, "zero": 0.0}
            lines.append({"item": item, "places": {name: place(value) for name, value in ends.items()}})
        names = dict(zip(("metric", "protocol", "scale"), key[:3], strict=True))
        blocks.append({**names, "synthetic": key[3] == "synthetic", "lines": lines})
    return blocks


def _trials(table: TableFiles) -> Iterator[dict[str, Any]]:
    """The settings tried on validation data, those chosen marked."""
    try:
        for data, methods in (table.companion.get("chosen_on_validation") or {}).items():
            for method, entry in methods.items():
                for trial in entry["trials"]:
                    setting = {name: value for name, value in trial.items() if name != "validation MAP"}
                    yield {
                        "data": data,
                        "method": method,
                        "setting": _flat(setting),
                        "score": float(trial["validation MAP"]),
                        "chosen": setting == entry["chosen"],
                    }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        path = table.path.with_suffix(".yaml")
        raise TableError(
            f"{path}: chosen_on_validation is not as it was written ({error!r}); run the table again."
        ) from error


def _flat(setting: dict[str, Any], prefix: str = "") -> str:
    parts = [
        _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else f"{prefix}{name} = {value}"
        for name, value in setting.items()
    ]
    return ", ".join(parts)
