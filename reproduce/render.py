"""A result table as Markdown: one section per data set and protocol, methods down, numbers across."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from reproduce.comparisons import Comparison, read_comparisons
from reproduce.published import load_sources
from reproduce.schema import METRICS, Row, read_table, replace_file

SECTION = ("dataset", "features", "split", "gallery", "protocol", "scale", "data_kind")
SYNTHETIC = "SYNTHETIC DATA"
MOST_COLUMNS = 8


def section_name(row: Row) -> str:
    """What the numbers of a section have in common, in words."""
    name = (
        f"{row.dataset}, features {row.features}, split {row.split}, gallery {row.gallery}, protocol {row.protocol}, "
        f"scale {row.scale}"
    )
    return f"{SYNTHETIC}: {name}" if row.data_kind == "synthetic" else name


def column_name(row: Row) -> str:
    """Direction and metric with its cut-off, as in "image->text R@10"."""
    return f"{row.direction} {row.metric.replace('k', str(row.k)) if isinstance(row.k, int) else row.metric}"


def format_value(row: Row, value: float | None = None) -> str:
    """A value of the row's metric as people read it; the row's own with its deviation."""
    text = METRICS[row.metric].text
    if value is not None:
        return text(value)
    return text(row.value) + ("" if row.std is None else f" ± {text(row.std, of=row.value)}")


def write_markdown(csv_path: str | Path, title: str | None = None) -> Path:
    """Writes the Markdown of a table beside its CSV file, under the same name ending in .md.

    Raises:
        TableError: the table cannot be read or the Markdown cannot be written.
    """
    return replace_file(Path(csv_path).with_suffix(".md"), render_markdown(csv_path, title))


def render_markdown(csv_path: str | Path, title: str | None = None) -> str:
    """Renders a table: heading, origin of its numbers, a section per data set and protocol, and what is missing.

    The best number of a column is bold, all of them where several show the same digits. Published numbers stand beside
    the column they match. A YAML file of the same name beside the CSV file is named as its configuration, and the
    comparisons of methods in comparisons/ are listed.

    Args:
        csv_path: a table written by `reproduce.schema.write_table`.
        title: the heading; by default the name of the table.

    Raises:
        TableError: the table cannot be read.
    """
    path = Path(csv_path)
    rows = read_table(path)
    sections: dict[tuple, list[Row]] = {}
    for row in rows:
        if row.status == "ok":
            sections.setdefault(tuple(getattr(row, name) for name in SECTION), []).append(row)
    parts = [f"# {escape(title or ', '.join(distinct(row.table for row in rows)))}"]
    if any(row.data_kind == "synthetic" for row in rows):
        parts.append(
            f"> **{SYNTHETIC}.** The numbers marked so come from generated data. They show that the pipeline runs and "
            "say nothing about any benchmark or method."
        )
    parts.append(_origin(rows, path))
    parts += [_section(section) for section in sections.values()]
    beside = path.parent / "comparisons" / path.name
    parts += _comparisons(read_comparisons(beside)) if beside.exists() else []
    parts += _missing(rows)
    return "\n\n".join(parts) + "\n"


def distinct(values: Iterable) -> list:
    """The non-empty values, each once, in order of first appearance."""
    return [value for value in dict.fromkeys(values) if value not in ("", None)]


def blocks_of(rows: list[Row]) -> list[list[Row]]:
    """The rows of a section, apart by metric where they have too many columns for a page.

    Metrics with one column each, as those of the modality gap, stay together.
    """
    columns: dict[tuple, set[str]] = {}
    for row in rows:
        columns.setdefault((row.metric, row.k), set()).add(column_name(row))
    if sum(map(len, columns.values())) <= MOST_COLUMNS:
        return [rows]
    blocks: dict[tuple | None, list[Row]] = {}
    for row in rows:
        metric = (row.metric, row.k)
        blocks.setdefault(metric if len(columns[metric]) > 1 else None, []).append(row)
    return list(blocks.values())


def best_shown(column: list[Row]) -> str | None:
    """The best number of a column as shown; None where a method has nothing to be compared with, or none is best."""
    better = METRICS[column[0].metric].higher_is_better
    if len(column) < 2 or better is None:
        return None
    return format_value(column[0], (max if better else min)(row.value for row in column))


def escape(text: str) -> str:
    """Text that Markdown shows as it is; underscores inside words need nothing."""
    return re.sub(r"([\\|*<`\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def _origin(rows: list[Row], path: Path) -> str:
    numbers = [row for row in rows if row.status == "ok"]
    seeds = sorted({seed for row in numbers for seed in row.seeds})
    facts = {
        "Data": distinct(f"{row.dataset} ({row.data_kind})" for row in numbers),
        "Scale": distinct(row.scale for row in rows),
        "Seeds": [" ".join(map(str, seeds))] if seeds else [],
        "Device": distinct(row.device for row in numbers),
        "Versions": distinct(f"torch {row.torch}" for row in numbers),
        "Commit": distinct(row.git_commit for row in numbers),
    }
    lines = [f"- {name}: {escape(', '.join(values))}" for name, values in facts.items() if values]
    files = [f"numbers `{path.name}`"]
    if path.with_suffix(".yaml").exists():
        files.append(f"configuration `{path.with_suffix('.yaml').name}`")
    lines.append(f"- Files: {', '.join(files)}")
    if any(row.std is not None for row in numbers):
        lines.append("- Cells: mean over seeds ± standard deviation (n - 1); best of a column in bold")
    return "\n".join(lines)


def _section(rows: list[Row]) -> str:
    cells = {(row.method, column_name(row)): row for row in rows}
    methods = distinct(row.method for row in rows)
    parts = [f"## {escape(section_name(rows[0]))}"]
    blocks = blocks_of(rows)
    for block in blocks:
        header, body = ["method"], [[escape(method)] for method in methods]
        for name in distinct(map(column_name, block)):
            best = best_shown([row for row in block if column_name(row) == name])
            _column(header, body, name, [cells.get((method, name)) for method in methods], best)
        if block is blocks[-1]:
            _train_seconds(header, body, rows, methods)
        table = [header, ["---"] + ["---:"] * (len(header) - 1), *body]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in table))
    return "\n\n".join(parts + _below(rows))


def _column(header: list[str], body: list[list[str]], name: str, column: list[Row | None], best: str | None) -> None:
    header.append(name)
    for line, row in zip(body, column, strict=True):
        line.append("–" if row is None else _bold(format_value(row), format_value(row, row.value) == best))
    if any(row is not None and row.published is not None for row in column):
        header.append(f"published {name}")
        for line, row in zip(body, column, strict=True):
            line.append("–" if row is None or row.published is None else format_value(row, row.published))


def _train_seconds(header: list[str], body: list[list[str]], rows: list[Row], methods: list[str]) -> None:
    seconds = [distinct(row.train_seconds for row in rows if row.method == method) for method in methods]
    if any(seconds):
        header.append("train seconds")
        for line, value in zip(body, seconds, strict=True):
            line.append(f"{value[0]:.1f}" if value else "–")


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def _below(rows: list[Row]) -> list[str]:
    """Gallery sizes, notes and citations of a section, each once."""
    sizes: dict[str, list[str]] = {}
    for row in rows:
        if row.n_queries and row.n_gallery:
            sizes.setdefault(f"{row.n_queries} queries, {row.n_gallery} in the gallery", []).append(row.direction)
    if len(sizes) == 1:
        lines = [f"- Sizes: {next(iter(sizes))}"]
    else:
        lines = [f"- Sizes, {', '.join(distinct(directions))}: {size}" for size, directions in sizes.items()]
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            notes.setdefault(row.note, []).append(row.method)
    lines += [f"- {escape(', '.join(distinct(methods)))}: {escape(note)}" for note, methods in notes.items()]
    for reference in distinct(row.published_source for row in rows):
        lines.append(
            f"- Published: {escape(reference)}. {load_sources().get(reference.partition(',')[0], '')}".rstrip()
        )
    return ["\n".join(lines)] if lines else []


def _comparisons(found: list[Comparison]) -> list[str]:
    if not found:
        return []
    lines = ["| data | method | against | difference in MAP | 95% interval | p, corrected | |", "|" + " --- |" * 7]
    for item in found:
        data = f"{item.dataset}, {item.features}, {item.split}"
        words = [escape(data), escape(item.method), escape(item.baseline), f"{item.difference:+.3f}"]
        words += [f"{item.low:+.3f} to {item.high:+.3f}", f"{item.p_holm:.3f}", "*" * item.significant]
        lines.append(f"| {' | '.join(words)} |".replace(" * |", " \\* |"))
    seeds = max(len(item.seeds) for item in found)
    text = (
        "Average over directions, protocol honest, paired by seed and query: a bootstrap over seeds and, within a "
        f"seed, items. p is corrected over the rows of this list (Holm); \\* marks p < 0.05. {seeds} seeds."
    )
    return [f"## Method against method\n\n{text}", "\n".join(lines)]


def _common(rows: list[Row]) -> str:
    """Data, split, gallery, protocol, scale and methods of rows, each with all its values."""
    synthetic = f"{SYNTHETIC}: " * any(row.data_kind == "synthetic" for row in rows)
    names = ("dataset", "features", "split", "gallery", "protocol", "scale", "method")
    parts = [(name, distinct(getattr(row, name) for row in rows)) for name in names]
    return synthetic + "; ".join(f"{name} {escape(', '.join(values))}" for name, values in parts)


def _missing(rows: list[Row]) -> list[str]:
    """One section per status with the rows that have no number: what they have in common, under their reason."""
    parts = []
    for status, heading in (("not_run", "Not run"), ("failed", "Failed")):
        reasons: dict[str, list[Row]] = {}
        for row in rows:
            if row.status == status:
                reasons.setdefault(row.note, []).append(row)
        lines = [f"- {_common(found)}. Reason: {escape(note)}" for note, found in reasons.items()]
        if lines:
            parts.append(f"## {heading}\n\n" + "\n".join(lines))
    return parts
