"""A result table as Markdown: one section per data set and protocol, methods down, numbers across."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from reproduce.results.metrics import METRICS
from reproduce.results.published import citations_of
from reproduce.results.shown import (
    SECTION,
    SYNTHETIC,
    column_name,
    data_name,
    distinct,
    format_value,
    missing_of,
    notes_of,
    section_name,
    sections,
    sizes_of,
)

MOST_COLUMNS = 8


def render_markdown(table: pd.DataFrame, path: Path, title: str, comparisons: pd.DataFrame | None = None) -> str:
    """Render a table: heading, origin of its numbers, a section per data set and protocol, and what is missing.

    The best number of a column is bold, all of them where several show the same digits. Published numbers stand beside
    the column they match.

    Args:
        table: the table.
        path: its CSV; a YAML file of the same name beside it is named as its configuration.
        title: the heading.
        comparisons: of its methods, listed below.
    """
    parts = [f"# {escape(title)}"]
    if (table["data_kind"] == "synthetic").any():
        parts.append(
            f"> **{SYNTHETIC}.** The numbers marked so come from generated data. They show that the pipeline runs and "
            "say nothing about any benchmark or method."
        )
    parts.append(_origin(table, path))
    parts += [_section(section) for section in sections(table)]
    parts += _comparisons(comparisons) if comparisons is not None else []
    parts += _missing(table)
    return "\n\n".join(parts) + "\n"


def blocks_of(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of a section, apart by metric where they have too many columns for a page.

    Metrics with one column each, as those of the modality gap, stay together.
    """
    columns = rows[["metric", "k", "direction"]].drop_duplicates()
    if len(columns) <= MOST_COLUMNS:
        return [rows]
    several = columns.groupby(["metric", "k"]).size() > 1
    blocks = [f"{m}@{k}" if several[m, k] else "" for m, k in zip(rows["metric"], rows["k"], strict=True)]
    return [block for _, block in rows.groupby(blocks, sort=False)]


def best_shown(column: pd.DataFrame) -> str | None:
    """The best number of a column as shown; None where a method has nothing to be compared with, or none is best."""
    first = next(column.itertuples())
    better = METRICS[first.metric].higher_is_better
    if len(column) < 2 or better is None:
        return None
    return format_value(first, column["value"].max() if better else column["value"].min())


def escape(text: str) -> str:
    """Text that Markdown shows as it is; underscores inside words need nothing."""
    return re.sub(r"([\\|*<`\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def markdown_table(lines: list[list[str]], names: int = 1) -> str:
    """Lines of texts as a table, the first of them its header; columns after the first ``names`` hold numbers."""
    header, *body = lines
    rule = ["---" if place < names else "---:" for place in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *body))


def _origin(table: pd.DataFrame, path: Path) -> str:
    numbers = table[table["status"] == "ok"]
    seeds = sorted({int(seed) for text in numbers["seeds"] for seed in text.split()})
    facts = {
        "Data": distinct(f"{row.dataset} ({row.data_kind})" for row in numbers.itertuples()),
        "Scale": distinct(table["scale"]),
        "Seeds": [" ".join(map(str, seeds))] if seeds else [],
        "Device": distinct(numbers["device"]),
        "Versions": distinct("torch " + numbers["torch"]),
        "Commit": distinct(numbers["git_commit"]),
    }
    lines = [f"- {name}: {escape(', '.join(values))}" for name, values in facts.items() if values]
    files = [f"numbers `{path.name}`"]
    if path.with_suffix(".yaml").exists():
        files.append(f"configuration `{path.with_suffix('.yaml').name}`")
    lines.append(f"- Files: {', '.join(files)}")
    if numbers["std"].notna().any():
        lines.append("- Numbers: mean over seeds ± standard deviation (n - 1); best of a column in bold")
    return "\n".join(lines)


def _section(rows: pd.DataFrame) -> str:
    methods = distinct(rows["method"])
    parts = [f"## {escape(section_name(next(rows.itertuples())))}"]
    blocks = blocks_of(rows)
    for block in blocks:
        lines = [["method"], *([escape(method)] for method in methods)]
        for _, column in block.groupby(["direction", "metric", "k"], sort=False):
            _column(lines, column, methods)
        if block is blocks[-1]:
            _train_seconds(lines, rows, methods)
        parts.append(markdown_table(lines))
    return "\n\n".join(parts + _below(rows))


def _column(lines: list[list[str]], column: pd.DataFrame, methods: list[str]) -> None:
    best = best_shown(column)
    cells = {row.method: row for row in column.itertuples()}
    published = bool(column["published"].notna().any())
    name = column_name(next(iter(cells.values())))
    lines[0] += [name] + [f"published {name}"] * published
    for line, method in zip(lines[1:], methods, strict=True):
        row = cells.get(method)
        line.append("–" if row is None else _bold(format_value(row), format_value(row, row.value) == best))
        if published:
            line.append("–" if row is None or pd.isna(row.published) else format_value(row, row.published))


def _train_seconds(lines: list[list[str]], rows: pd.DataFrame, methods: list[str]) -> None:
    seconds = rows.groupby("method")["train_seconds"].first()
    if seconds.notna().any():
        lines[0].append("train seconds")
        for line, method in zip(lines[1:], methods, strict=True):
            line.append("–" if pd.isna(seconds[method]) else f"{seconds[method]:.1f}")


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def _below(rows: pd.DataFrame) -> list[str]:
    """Gallery sizes, notes and citations of a section, each once."""
    sizes = sizes_of(rows)
    several = len(sizes) > 1
    lines = [f"- Sizes{', ' + ', '.join(of) if several else ''}: {size}" for size, of in sizes.items()]
    lines += [f"- {escape(', '.join(methods))}: {escape(note)}" for note, methods in notes_of(rows).items()]
    lines += [f"- Published: {escape(reference)}. {cited}".rstrip() for reference, cited in citations_of(rows).items()]
    return ["\n".join(lines)] if lines else []


def _comparisons(found: pd.DataFrame) -> list[str]:
    if found.empty:
        return []
    lines = [["data", "method", "against", "difference in MAP", "95% interval", "p, corrected", ""]]
    for item in found.itertuples():
        words = [*map(escape, (data_name(item), item.method, item.baseline)), f"{item.difference:+.3f}"]
        lines.append([*words, f"{item.low:+.3f} to {item.high:+.3f}", f"{item.p_holm:.3f}", "\\*" * item.significant])
    seeds = max(len(seeds.split()) for seeds in found["seeds"])
    text = (
        "Average over directions, protocol honest, paired by seed and query: a bootstrap over seeds and, within a "
        "seed, items. p is corrected over the different comparisons of this list (Holm); \\* marks p < 0.05. "
        f"{seeds} seeds."
    )
    return [f"## Method against method\n\n{text}", markdown_table(lines, names=7)]


def _common(rows: pd.DataFrame) -> str:
    """Data, split, gallery, protocol, scale and methods of rows, each with all its values."""
    synthetic = f"{SYNTHETIC}: " * bool((rows["data_kind"] == "synthetic").any())
    names = (*(name for name in SECTION if name != "data_kind"), "method")
    return synthetic + "; ".join(f"{name} {escape(', '.join(distinct(rows[name])))}" for name in names)


def _missing(table: pd.DataFrame) -> list[str]:
    """One section per status with the rows that have no number: what they have in common, under their reason."""
    found: dict[str, list[str]] = {}
    for heading, note, rows in missing_of(table):
        found.setdefault(heading, []).append(f"- {_common(rows)}. Reason: {escape(note)}")
    return [f"## {heading}\n\n" + "\n".join(lines) for heading, lines in found.items()]
