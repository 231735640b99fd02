"""What a results folder holds, read whole: tables with their companions, figures and comparisons, and the claims."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from reproduce.claims import Claim, read_claims
from reproduce.compare import table_paths
from reproduce.comparisons import Comparison, read_comparisons
from reproduce.render import SYNTHETIC, distinct, escape
from reproduce.schema import Row, TableError, read_table

RETRIEVAL = ("MAP", "R@k", "P@k", "MAP@k[min(R,k)]", "MedR")


@dataclass(frozen=True, kw_only=True)
class TableFiles:
    """A table with everything that stands beside it.

    Args:
        path: its CSV.
        title: the heading of its Markdown, else the name of the file.
        rows: its rows.
        companion: its YAML, the command and the settings chosen; empty where there is none.
        figures: `<name>.png` and `<name>_*.png`.
        comparisons: of `comparisons/<name>.csv`; empty where there is none.
    """

    path: Path
    title: str
    rows: list[Row]
    companion: dict[str, Any]
    figures: list[Path]
    comparisons: list[Comparison]

    @property
    def name(self) -> str:
        """The name of the table's files."""
        return self.path.stem

    @property
    def command(self) -> str:
        """What regenerates it; empty where no companion says so."""
        return str(self.companion.get("command", ""))

    @property
    def data(self) -> list[str]:
        """The data sets that have numbers, else those that have none."""
        numbers = [row for row in self.rows if row.status == "ok"] or self.rows
        return distinct(f"{row.dataset} ({row.data_kind})" for row in numbers)

    @property
    def measures(self) -> bool:
        """Whether it measures losses on generated inputs rather than retrieval."""
        return not any(row.metric in ("", *RETRIEVAL) for row in self.rows)

    @property
    def synthetic(self) -> bool:
        """Whether any row is on data that stands in for a benchmark."""
        return not self.measures and any(row.data_kind == "synthetic" for row in self.rows)

    def count(self, status: str) -> int:
        """Rows of a status."""
        return sum(row.status == status for row in self.rows)

    @property
    def beside(self) -> int:
        """Numbers with a published number beside them."""
        return sum(row.published is not None for row in self.rows)


@dataclass(frozen=True)
class ResultsFolder:
    """Tables and claims of a folder."""

    folder: Path
    tables: list[TableFiles]
    claims: list[Claim]


def read_results(folder: str | Path) -> ResultsFolder:
    """Reads every table of a folder, what stands beside each, and the claims.

    Raises:
        TableError: no table, a file that cannot be used, comparisons of a table that is not there, or a claim whose
            source is not there; the message names the file and, where it has one, the line.
    """
    folder = Path(folder)
    paths = table_paths(folder)
    if not paths:
        raise TableError(f"{folder}: no tables (*.csv); run a table first, or name its folder with --out.")
    for path in sorted(folder.glob("comparisons/*.csv")):
        if path.stem not in {table.stem for table in paths}:
            raise TableError(f"{path}: compares methods of {path.name}, which is not in {folder}; run that table.")
    claims = read_claims(folder / "claims.csv") if (folder / "claims.csv").exists() else []
    for claim in claims:
        for source in claim.sources.split():
            if not (folder / source).is_file():
                raise TableError(
                    f"{folder / 'claims.csv'}: {claim.claim!r} names the source {source}, which is not in {folder}; "
                    "correct the name, or make the file."
                )
    return ResultsFolder(folder, [_read_table_files(path) for path in paths], claims)


def _read_table_files(path: Path) -> TableFiles:
    comparisons = path.parent / "comparisons" / path.name
    return TableFiles(
        path=path,
        title=_read_title(path.with_suffix(".md")),
        rows=read_table(path),
        companion=_read_companion(path.with_suffix(".yaml")),
        figures=[*path.parent.glob(f"{path.stem}.png"), *sorted(path.parent.glob(f"{path.stem}_*.png"))],
        comparisons=read_comparisons(comparisons) if comparisons.exists() else [],
    )


def _read_title(path: Path) -> str:
    try:
        found = re.match(r"# (.+)", path.read_text(encoding="utf-8")) if path.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: cannot be read ({error}); run the table again to write it.") from error
    return re.sub(r"\\(.)", r"\1", found[1]) if found else path.stem


def _read_companion(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise TableError(f"{place}: cannot be read as YAML; run the table again to write it.") from error
    if not isinstance(content, dict):
        raise TableError(f"{path}, line 1: expected a mapping with table, command and scale; run the table again.")
    return content


def render_index(results: ResultsFolder) -> str:
    """The folder in Markdown: claims with verdicts, a line per table with links to its files, and the commands."""
    parts = [
        "# Results",
        "Each table is a CSV with one row per number, and beside it the same as Markdown, a figure, and a YAML with "
        "the command and the settings chosen. [report.html](report.html) shows all of it on one page.",
    ]
    if results.claims:
        lines = ["| claim | verdict | sources |", "| --- | --- | --- |"]
        for claim in results.claims:
            links = ", ".join(_link(source, source) for source in claim.sources.split())
            lines.append(f"| {escape(claim.claim)} | {escape(claim.verdict)} | {links} |")
        parts += ["## Claims", "\n".join(lines)]
    lines = ["| table | data | rows | files |", "| --- | --- | --- | --- |"]
    for table in results.tables:
        mark = f"**{SYNTHETIC}**: " * table.synthetic
        cells = [mark + escape(table.title), escape(", ".join(table.data)), row_counts(table), _files(table)]
        lines.append(f"| {' | '.join(cells)} |")
    parts += ["## Tables", "\n".join(lines), "## Commands", "\n".join(["```", *_commands(results), "```"])]
    return "\n\n".join(parts) + "\n"


def row_counts(table: TableFiles) -> str:
    """Rows by status, and how many have a published number beside them, in words."""
    counts = [(table.count("ok"), "ok"), (table.count("not_run"), "not run"), (table.count("failed"), "failed")]
    return ", ".join(f"{count} {name}" for count, name in [*counts, (table.beside, "beside a published number")])


def files_beside(table: TableFiles) -> list[str]:
    """Names of a table's files relative to the folder, those that are there."""
    names = [f"{table.name}.md", f"{table.name}.csv", f"{table.name}.yaml", *(path.name for path in table.figures)]
    names.append(f"comparisons/{table.name}.csv")
    return [name for name in names if (table.path.parent / name).is_file()]


def _files(table: TableFiles) -> str:
    texts = {f"comparisons/{table.name}.csv": "comparisons"}
    names = files_beside(table)
    return " ".join(_link(texts.get(name) or name.removeprefix(table.name).lstrip("._"), name) for name in names)


def _link(text: str, name: str) -> str:
    return f"[{escape(text)}]({quote(name)})"


def _commands(results: ResultsFolder) -> list[str]:
    commands = [(table.command, table.title) for table in results.tables if table.command]
    commands += [
        ("python -m reproduce report", "this page and report.html, from the files"),
        ("python -m reproduce compare", "each number beside the published one, or what differs"),
        ("python -m reproduce diff NEW.csv OLD.csv", "one table against another, number by number"),
    ]
    width = max(len(command) for command, _ in commands)
    return [f"{command.ljust(width)}  # {what}" for command, what in commands]
