"""What is shown of a results folder, from its CSV files: Markdown, figures, an index and one self-contained page."""

import argparse
import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template

import pandas as pd
from markdown_it import MarkdownIt

from datamodules.files.sources import user_path
from reproduce.names import table_files
from reproduce.report.figures import draw_figures
from reproduce.report.index import TableFiles, links, read_results, render_index
from reproduce.report.markdown import escape, render_markdown
from reproduce.results.claims import verdict_of
from reproduce.results.companion import dump_yaml
from reproduce.results.schema import TableError, read_table, replace_file
from reproduce.results.significance import read_comparisons
from reproduce.runs.spec import Table, read_file

TEMPLATE = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
# Text of tables is escaped, whatever it holds.
CONVERTER = MarkdownIt("commonmark", {"html": False}).enable("table")


def main(argv: list[str]) -> int:
    """Write the Markdown and figures of the tables in a folder anew, and its README.md and runs/report.html.

    Args:
        argv: words after ``python -m reproduce report``.

    Returns:
        0.

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


def render_page(tables: Sequence[TableFiles], claims: pd.DataFrame | None) -> str:
    """The page: the index, what each claim is judged by, then the Markdown of every table with its figures.

    It loads nothing: style, script and images are inside, and links lead to the files. The same results give the same
    bytes.

    Raises:
        TableError: a figure cannot be read.
    """
    parts = {"index": ("Results", render_index(tables, claims), "")}
    if claims is not None:
        parts["evidence"] = ("Evidence", _evidence(claims), "")
    for table in tables:
        place = re.sub(r"[^\w-]", "-", table.path.stem)
        parts[place] = (table.title, _with_figures(table), dump_yaml(table.companion) if table.companion else "")
    contents = [f'<li><a href="#{place}">{html.escape(title)}</a></li>' for place, (title, _, _) in parts.items()]
    sections = [_section(place, text, settings) for place, (_, text, settings) in parts.items()]
    return TEMPLATE.substitute(contents="\n".join(contents), sections="\n".join(sections))


def _section(place: str, text: str, settings: str) -> str:
    """Markdown as HTML, its links leading from runs/ to the folder; below it the settings, closed."""
    body = CONVERTER.render(text).replace('href="', 'href="../')
    if settings:
        body += f"<details><summary>Settings</summary><pre>{html.escape(settings)}</pre></details>"
    return f'<section id="{place}">\n{body}\n</section>'


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
