"""A result table as Markdown: one section per data set and protocol, or per metric of a table of measurements."""

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from lightning_modules.metrics.directions import is_joint
from reproduce.results.metrics import METRICS
from reproduce.results.published import citations_of, published_of, with_other_features
from reproduce.results.shown import (
    SECTION,
    STATUS,
    SYNTHETIC,
    column_name,
    data_name,
    distinct,
    format_value,
    section_name,
    sections,
)

MOST_COLUMNS = 8
NOTHING = "–"


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
    differ = table.loc[table["status"] == "ok", "seeds"].nunique() > 1
    parts += [_section(section, differ) for section in sections(table)]
    if comparisons is not None and len(comparisons):
        parts.append(_comparisons(comparisons))
    return "\n\n".join([*parts, *_missing(table)]) + "\n"


def render_measures(table: pd.DataFrame, path: Path, title: str, text: str) -> str:
    """Render a table of measurements: heading, origin of its numbers, what they are and say, and a section per metric.

    Args:
        table: the table.
        path: its CSV; the YAML and the figure beside it have the same name.
        title: the heading.
        text: what the metrics are and what the numbers say, in Markdown.
    """
    origin = f"{_origin(table, path)}\n- Figure: `{path.with_suffix('.png').name}`"
    metrics = sorted(table["metric"].unique(), key=list(METRICS).index)
    sections = [_measures(table[table["metric"] == metric]) for metric in metrics]
    return "\n\n".join([f"# {escape(title)}", origin, text, *sections]) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is; underscores inside words need nothing."""
    return re.sub(r"([\\|*<`\[\]]|(?<!\w)_|_(?!\w)|&(?=#?\w+;))", r"\\\1", text)


def markdown_table(lines: list[list[str]], names: int = 1) -> str:
    """Lines of texts as a table, the first of them its header; columns after the first ``names`` hold numbers."""
    header, *body = lines
    rule = ["---" if place < names else "---:" for place in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *body))


def _origin(table: pd.DataFrame, path: Path) -> str:
    numbers = table[table["status"] == "ok"]
    seeds = sorted({int(seed) for text in numbers["seeds"] for seed in text.split()})
    files = [f"numbers `{path.name}`"]
    if path.with_suffix(".yaml").exists():
        files.append(f"configuration `{path.with_suffix('.yaml').name}`")
    spread = ["mean over seeds ± standard deviation (n - 1); best of a column in bold"]
    facts = {
        "Data": distinct(numbers["dataset"] + " (" + numbers["data_kind"] + ")"),
        "Scale": distinct(table["scale"]),
        "Seeds": [" ".join(map(str, seeds))] if seeds else [],
        "Device": distinct(numbers["device"]),
        "Versions": distinct("torch " + numbers["torch"]),
        "Commit": distinct(numbers["git_commit"].str.split(", ").explode()),  # a row's runs may be of several
    }
    facts = {name: [escape(", ".join(values))] if values else [] for name, values in facts.items()}
    facts |= {"Files": files, "Numbers": spread if numbers["std"].notna().any() else []}
    return "\n".join(f"- {name}: {', '.join(values)}" for name, values in facts.items() if values)


def _section(rows: pd.DataFrame, seeds_differ: bool) -> str:
    of_pair = rows["direction"].str.contains("->") & ~rows["direction"].map(is_joint)
    many = rows["direction"][of_pair].nunique() > MOST_COLUMNS
    shown = rows[~of_pair] if many else rows
    blocks = [_frame(block, distinct(rows["method"])) for block in _blocks(shown)]
    seconds = rows.groupby("method")["train_seconds"].first().dropna()
    if len(seconds):
        blocks[-1]["train seconds"] = seconds.map("{:.1f}".format)
    tables = [
        markdown_table([["method", *block.columns], *([escape(name), *line] for name, *line in block.itertuples())])
        for block in (block.fillna(NOTHING) for block in blocks)
    ]
    of_map = rows["metric"] == "MAP"
    matrix = _matrix(rows[of_map & of_pair], rows[of_map & (rows["direction"] == "average")]) if many else ""
    heading, below = f"## {escape(section_name(_first(rows)))}", "\n".join(_below(rows, seeds_differ))
    return "\n\n".join(filter(None, [heading, *tables, matrix, below]))


def _matrix(rows: pd.DataFrame, averages: pd.DataFrame) -> str:
    """The MAP of every direction of the method whose average is the best, in place of columns too many for a page."""
    if not len(averages):
        return ""
    best = averages.loc[averages["value"].idxmax(), "method"]
    found = rows[rows["method"] == best]
    found = found.assign(text=[format_value(row, row.value) for row in found.itertuples()])
    found[["query", "gallery"]] = found["direction"].str.partition("->")[[0, 2]]
    names = distinct(found["query"])
    grid = found.set_index(["query", "gallery"])["text"].unstack(fill_value=NOTHING).loc[names, names]
    lines = [["query -> gallery", *names], *([escape(name), *line] for name, *line in grid.itertuples())]
    return f"MAP of {escape(best)}, the best on average, of every direction:\n\n{markdown_table(lines)}"


def _first(rows: pd.DataFrame):
    return next(rows.itertuples())


def _blocks(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of a section, apart by metric where they have too many columns for a page.

    Metrics with one column each, as those of the modality gap, stay together.
    """
    if len(rows[["metric", "k", "direction"]].drop_duplicates()) <= MOST_COLUMNS:
        return [rows]
    several = rows.groupby(["metric", "k"])["direction"].transform("nunique") > 1
    names = (rows["metric"] + "@" + rows["k"]).where(several, "")
    return [block for _, block in rows.groupby(names, sort=False)]


def _frame(rows: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """Methods down, directions and metrics across, each number as text; beside it the published one."""
    columns = {}
    for _, column in rows.groupby(["direction", "metric", "k"], sort=False):
        name, best = column_name(_first(column)), _best(column)
        of = list(column.itertuples())
        texts = {r.method: (format_value(r), "**" * (format_value(r, r.value) == best)) for r in of}
        columns[name] = {method: f"{bold}{text}{bold}" for method, (text, bold) in texts.items()}
        if column["published"].notna().any():
            published = {r.method: format_value(r, r.published) for r in of if not pd.isna(r.published)}
            columns[f"published {name}"] = published
    return pd.DataFrame(columns, index=methods)


def _best(column: pd.DataFrame) -> str | None:
    """The best number of a column as shown; None where a method has nothing to be compared with, or none is best."""
    first = _first(column)
    better = METRICS[first.metric].higher_is_better
    if len(column) < 2 or better is None:
        return None
    return format_value(first, column["value"].max() if better else column["value"].min())


def _below(rows: pd.DataFrame, seeds_differ: bool) -> Iterator[str]:
    """Seeds where those of the table differ, gallery sizes, notes and citations of a section, each once."""
    if seeds_differ:
        yield f"- Seeds: {', '.join(distinct(rows['seeds']))}"
    sizes = list(rows.dropna(subset=["n_queries", "n_gallery"]).groupby(["n_queries", "n_gallery"], sort=False))
    for (queries, gallery), found in sizes:
        of = f", {', '.join(distinct(found['direction']))}" * (len(sizes) > 1)
        yield f"- Sizes{of}: {queries} queries, {gallery} in the gallery"
    yield from _notes(rows)
    for row in rows[rows["published_source"] != ""].itertuples():  # from several sources
        for other in published_of(row)[1:]:
            number = f"{column_name(row)} {format_value(row, other.value)}"
            yield f"- Also published: {escape(f'{row.method}, {number} ({other.reference})')}"
    if (rows["data_kind"] == "real").all():
        for line in with_other_features(rows):
            yield f"- Same data, split and gallery, other features: {escape(line)}"
    for reference, cited in citations_of(rows).items():
        yield f"- Published: {escape(reference)}. {cited}".rstrip()


def _notes(rows: pd.DataFrame, between: str = ", ") -> Iterator[str]:
    """The notes of rows, each once, after the methods that have it."""
    parts = rows.assign(note=rows["note"].str.split("; ")).explode("note")
    for note, found in parts[parts["note"] != ""].groupby("note", sort=False):
        methods = distinct(found["method"])
        of = "All" if len(methods) == rows["method"].nunique() > 1 else between.join(methods)
        yield f"- {escape(of)}: {escape(note)}"


def _measures(rows: pd.DataFrame) -> str:
    """One metric, methods down and what is varied across: of benchmarks, each of which is a split, these themselves."""
    first = _first(rows)
    beside, varied = ("features", "condition") if first.split == "generated" else ("condition", "split")
    texts = [NOTHING if pd.isna(row.value) else format_value(row) for row in rows.itertuples()]
    cells = rows.assign(text=texts).set_index(["method", beside, varied])["text"]
    grid = cells.unstack(sort=False, fill_value=NOTHING)
    lines = [["method", beside, *grid], *([*map(escape, names), *line] for names, *line in grid.itertuples())]
    parts = [f"## {first.metric}", markdown_table(lines, names=2), "\n".join(_notes(rows, "; "))]
    return "\n\n".join(filter(None, parts))


def _comparisons(found: pd.DataFrame) -> str:
    lines = [["data", "method", "against", "difference in MAP", "95% interval", "p, corrected", ""]]
    for item in found.itertuples():
        words = [*map(escape, (data_name(item), item.method, item.baseline)), f"{item.difference:+.3f}"]
        lines.append([*words, f"{item.low:+.3f} to {item.high:+.3f}", f"{item.p_holm:.3f}", "\\*" * item.significant])
    counts = sorted(set(found["seeds"].str.split().map(len)))
    over = "joint queries" if found["metric"].str.contains("joint").all() else "directions"
    text = (
        f"Average over {over}, protocol honest, paired by seed and query: a bootstrap over seeds and, within a "
        "seed, items. p is corrected over the different comparisons of this list (Holm); \\* marks p < 0.05. "
        f"{' or '.join(map(str, counts))} seeds."
    )
    return f"## Method against method\n\n{text}\n\n{markdown_table(lines, names=7)}"


def _missing(table: pd.DataFrame) -> Iterator[str]:
    """A section per status with the rows that have no number: what they have in common, under their reason."""
    for status in ("not_run", "failed"):
        lines = []
        for note, rows in table[table["status"] == status].groupby("note", sort=False):
            synthetic = f"{SYNTHETIC}: " * bool((rows["data_kind"] == "synthetic").any())
            facts = {name: distinct(rows[name]) for name in (*SECTION[:-1], "method")}
            common = "; ".join(f"{name} {escape(', '.join(values))}" for name, values in facts.items() if values)
            lines.append(f"- {synthetic}{common}. Reason: {escape(note)}")
        if lines:
            yield f"## {STATUS[status].capitalize()}\n\n" + "\n".join(lines)
