"""What is shown of a results folder, from its CSV files: Markdown, figures, an index and one self-contained page."""

import argparse
import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import pandas as pd
from markdown_it import MarkdownIt

from datamodules.files.sources import user_path
from reproduce.names import table_files
from reproduce.report.figures import draw_figures
from reproduce.report.markdown import escape, markdown_table, render_markdown
from reproduce.results.claims import read_claims, verdict_of
from reproduce.results.companion import dump_yaml, read_companion
from reproduce.results.compare import CLAIMS, table_paths
from reproduce.results.metrics import RETRIEVAL
from reproduce.results.schema import TableError, read_table, replace_file
from reproduce.results.shown import STATUS, SYNTHETIC, distinct
from reproduce.results.significance import read_comparisons
from reproduce.runs.spec import Table, read_file

TEMPLATE = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
# Text of tables is escaped, whatever it holds.
CONVERTER = MarkdownIt("commonmark", {"html": False}).enable("table")
COMMANDS = {
    "python -m reproduce report": "Markdown, figures, this page and runs/report.html, from the CSV files",
    "python -m reproduce compare": "each number beside the published one, or what differs",
    "python -m reproduce diff NEW.csv OLD.csv": "one table against another, number by number",
}
INTRODUCTION = (
    "Each table is a CSV with one row per number, and beside it the same as Markdown, a figure, and a YAML with the "
    "command and the settings chosen. `csd fit --config configs/<config_hash>.yaml` makes the number of a row of a "
    "trained or fitted method again, for its first seed. `make report` shows all of it on one page, `runs/report.html`."
)


def main(argv: list[str]) -> int:
    """Write the Markdown and figures of the tables in a folder anew, and its README.md and runs/report.html; returns 0.

    Raises:
        TableError: a file of the folder cannot be used, or the folder not be written to.
    """
    parser = argparse.ArgumentParser(
        prog="python -m reproduce report",
        description="Write what is shown of a folder anew from its CSV files: the Markdown and figures of every table, "
        "the index <out>/README.md, and <out>/runs/report.html, one self-contained page of all of it.",
    )
    parser.add_argument("--out", default="results", type=user_path, help="folder of the tables (default: results)")
    folder = parser.parse_args(argv).out
    for name in table_files():
        if (folder / f"{name}.csv").exists():
            show(read_file(name), folder / f"{name}.csv")
    results = read_results(folder)
    pages = {"runs/report.html": render_page(*results), "README.md": render_index(*results)}
    written = [replace_file(folder / name, page) for name, page in pages.items()]
    print(f"wrote {' and '.join(map(str, written))}")
    return 0


def show(table: Table, path: Path) -> list[Path]:
    """Write the Markdown and the figures of a table from its CSV and its comparisons; returns their paths.

    Raises:
        TableError: one of these cannot be used, or the folder cannot be written.
    """
    rows, beside = read_table(path), path.parent / "comparisons" / path.name
    compared = read_comparisons(beside) if beside.exists() else None
    text = render_markdown(rows, path, table.title, compared)
    return [replace_file(path.with_suffix(".md"), text), *draw_figures(rows, table, path)]


@dataclass(frozen=True)
class TableFiles:
    """A table with what stands beside it.

    Args:
        path: its CSV.
        rows: its rows.
        text: its Markdown; a heading where there is none.
        companion: its YAML, the command and the settings chosen; empty where there is none.
    """

    path: Path
    rows: pd.DataFrame
    text: str
    companion: dict[str, Any]

    @property
    def title(self) -> str:
        """The heading of its Markdown."""
        return re.sub(r"\\(.)", r"\1", self.text.partition("\n")[0].removeprefix("# "))

    @property
    def figures(self) -> list[Path]:
        """`<name>.png` and `<name>_*.png`."""
        own = self.path.with_suffix(".png")
        return [own] * own.exists() + sorted(own.parent.glob(f"{own.stem}_*.png"))

    @property
    def files(self) -> dict[str, str]:
        """Its files that are there: name relative to the folder -> a short name for a link."""
        name = self.path.stem
        names = [f"{name}.{kind}" for kind in ("md", "csv", "yaml")] + [figure.name for figure in self.figures]
        found = {each: each.removeprefix(name).lstrip("._") for each in names}
        found[f"comparisons/{name}.csv"] = "comparisons"
        return {each: text for each, text in found.items() if (self.path.parent / each).is_file()}


def read_results(folder: Path) -> tuple[list[TableFiles], pd.DataFrame | None]:
    """Every table of a folder with what stands beside it, and the claims.

    Raises:
        TableError: no table, a file that cannot be used, comparisons of a table that is not there, or a claim whose
            source is not there; the message names the file and, where it has one, the line.
    """
    paths = table_paths(folder)
    if not paths:
        raise TableError(f"{folder}: no tables (*.csv); run a table first, or name its folder with --out.")
    for path in sorted(folder.glob("comparisons/*.csv")):
        if folder / path.name not in paths:
            raise TableError(f"{path}: compares methods of {path.name}, which is not in {folder}; run that table.")
        read_comparisons(path)
    claims = read_claims(folder / CLAIMS) if (folder / CLAIMS).exists() else None
    for claim in () if claims is None else claims.itertuples():
        lacking = [source for source in claim.sources.split() if not (folder / source).is_file()]
        if lacking:
            raise TableError(
                f"{folder / CLAIMS}: {claim.claim!r} names the source {lacking[0]}, which is not in {folder}; run make "
                "claims again, or make the file."
            )
    return [_read_table_files(path) for path in paths], claims


def _read_table_files(path: Path) -> TableFiles:
    companion, beside = path.with_suffix(".yaml"), path.with_suffix(".md")
    try:
        text = beside.read_text(encoding="utf-8") if beside.exists() else f"# {escape(path.stem)}\n"
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{beside}: cannot be read ({error}); run the table again to write it.") from error
    return TableFiles(path, read_table(path), text, read_companion(companion) if companion.exists() else {})


def render_index(tables: Sequence[TableFiles], claims: pd.DataFrame | None) -> str:
    """The folder in Markdown: claims with verdicts, a line per table with links to its files, and the commands."""
    parts = ["# Results", INTRODUCTION]
    if claims is not None:
        lines = [[escape(one.claim), escape(verdict_of(one)), links(one.sources)] for one in claims.itertuples()]
        parts += ["## Claims", markdown_table([["claim", "verdict", "sources"], *lines], names=3)]
    lines = [["table", "data", "rows", "files"], *map(_line, tables)]
    commands = {line: table.title for table in tables for line in table.companion.get("command", "").splitlines()}
    commands |= COMMANDS
    width = max(map(len, commands))
    listed = [f"{command.ljust(width)}  # {what}" for command, what in commands.items()]
    parts += ["## Tables", markdown_table(lines, names=4), "## Commands", "\n".join(["```", *listed, "```"])]
    return "\n\n".join(parts) + "\n"


def _line(table: TableFiles) -> list[str]:
    rows = table.rows
    numbers = rows[rows["status"] == "ok"]
    kinds = numbers if len(numbers) else rows
    counts = {word: (rows["status"] == status).sum() for status, word in STATUS.items()}
    counts["beside a published number"] = rows["published"].notna().sum()
    # Losses are measured on generated inputs, which stand in for no data set.
    synthetic = rows["metric"].isin(["", *RETRIEVAL]).any() and (rows["data_kind"] == "synthetic").any()
    return [
        f"**{SYNTHETIC}**: " * bool(synthetic) + escape(table.title),
        escape(", ".join(distinct(kinds["dataset"] + " (" + kinds["data_kind"] + ")"))),
        ", ".join(f"{count} {word}" for word, count in counts.items() if count),
        links(table.files, " "),
    ]


def links(names: Mapping[str, str] | str, between: str = ", ") -> str:
    """Links to files of the folder: names with their texts, or names alone with spaces between."""
    names = {name: name for name in names.split()} if isinstance(names, str) else names
    return between.join(f"[{escape(text)}]({quote(name)})" for name, text in names.items())


def render_page(tables: Sequence[TableFiles], claims: pd.DataFrame | None) -> str:
    """The page: the index, what each claim is judged by, then the Markdown of every table with its figures.

    It loads nothing: style, script and images are inside, and links lead to the files. The same results give the same
    bytes.

    Raises:
        TableError: a figure cannot be read.
    """
    parts = {"index": ("Results", render_index(tables, claims), {})}
    if claims is not None:
        parts["evidence"] = ("Evidence", _evidence(claims), {})
    for table in tables:
        parts[re.sub(r"[^\w-]", "-", table.path.stem)] = (table.title, _with_figures(table), table.companion)
    contents, sections = [], []
    for place, (title, text, settings) in parts.items():
        contents.append(f'<li><a href="#{place}">{html.escape(title)}</a></li>')
        body = CONVERTER.render(text).replace('href="', 'href="../')  # links lead from runs/ to the folder
        if settings:
            body += f"<details><summary>Settings</summary><pre>{html.escape(dump_yaml(settings))}</pre></details>"
        sections.append(f'<section id="{place}">\n{body}\n</section>')
    return TEMPLATE.substitute(contents="\n".join(contents), sections="\n".join(sections))


def _evidence(claims: pd.DataFrame) -> str:
    parts = ["# Evidence"]
    for claim in claims.itertuples():
        head, *lines = map(escape, claim.evidence.splitlines())
        lines += [f"Sources: {links(claim.sources)}"] * bool(claim.sources)
        parts += [f"## {escape(claim.claim)}", f"**{escape(verdict_of(claim))}**. {head}."]
        parts.append("\n".join(f"- {line}" for line in lines))
    return "\n\n".join(parts)


def _with_figures(table: TableFiles) -> str:
    """The Markdown of a table with links to its files and its figures, above its first section."""
    head, *sections = re.split(r"\n(?=## )", table.text)
    figures = []
    for path in table.figures:
        try:
            image = base64.b64encode(path.read_bytes()).decode("ascii")
        except OSError as error:
            raise TableError(f"{path}: cannot be read ({error.strerror}); run the table again to draw it.") from error
        figures.append(f"![{escape(path.stem)}](data:image/png;base64,{image})")
    return "\n\n".join([head, links(table.files), *figures, *sections])
