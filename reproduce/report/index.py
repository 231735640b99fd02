"""What a results folder holds, read once: tables with their companions, figures and comparisons, and the claims."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from reproduce.report.markdown import escape
from reproduce.results.claims import read_claims
from reproduce.results.companion import read_companion
from reproduce.results.compare import CLAIMS, table_paths
from reproduce.results.schema import TableError, read_table
from reproduce.results.shown import STATUS, SYNTHETIC, distinct
from reproduce.results.significance import read_comparisons

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
        comparisons: of `comparisons/<name>.csv`; None where there is none.
    """

    path: Path
    title: str
    rows: pd.DataFrame
    companion: dict[str, Any]
    figures: list[Path]
    comparisons: pd.DataFrame | None

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
        ok = self.rows[self.rows["status"] == "ok"]
        rows = self.rows if ok.empty else ok
        return distinct(rows["dataset"] + " (" + rows["data_kind"] + ")")

    @property
    def measures(self) -> bool:
        """Whether it measures losses on generated inputs rather than retrieval."""
        return not self.rows["metric"].isin(["", *RETRIEVAL]).any()

    @property
    def synthetic(self) -> bool:
        """Whether any row is on data that stands in for a benchmark."""
        return not self.measures and bool((self.rows["data_kind"] == "synthetic").any())

    @property
    def counts(self) -> dict[str, int]:
        """Rows by status, in words, and how many have a published number beside them."""
        counts = {word: int((self.rows["status"] == status).sum()) for status, word in STATUS.items()}
        return counts | {"beside a published number": int(self.rows["published"].notna().sum())}

    @property
    def files(self) -> list[str]:
        """Names of its files relative to the folder, those that are there."""
        names = [f"{self.name}.md", f"{self.name}.csv", f"{self.name}.yaml", *(path.name for path in self.figures)]
        names.append(f"comparisons/{self.name}.csv")
        return [name for name in names if (self.path.parent / name).is_file()]


@dataclass(frozen=True)
class ResultsFolder:
    """Tables and claims of a folder."""

    folder: Path
    tables: list[TableFiles]
    claims: pd.DataFrame | None


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
    claims = read_claims(folder / CLAIMS) if (folder / CLAIMS).exists() else None
    for claim in () if claims is None else claims.itertuples():
        for source in claim.sources.split():
            if not (folder / source).is_file():
                raise TableError(
                    f"{folder / CLAIMS}: {claim.claim!r} names the source {source}, which is not in {folder}; run "
                    "make claims again, or make the file."
                )
    return ResultsFolder(folder, [_read_table_files(path) for path in paths], claims)


def _read_table_files(path: Path) -> TableFiles:
    comparisons = path.parent / "comparisons" / path.name
    companion = path.with_suffix(".yaml")
    return TableFiles(
        path=path,
        title=_read_title(path.with_suffix(".md")),
        rows=read_table(path),
        companion=read_companion(companion) if companion.exists() else {},
        figures=[*path.parent.glob(f"{path.stem}.png"), *sorted(path.parent.glob(f"{path.stem}_*.png"))],
        comparisons=read_comparisons(comparisons) if comparisons.exists() else None,
    )


def _read_title(path: Path) -> str:
    try:
        found = re.match(r"# (.+)", path.read_text(encoding="utf-8")) if path.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: cannot be read ({error}); run the table again to write it.") from error
    return re.sub(r"\\(.)", r"\1", found[1]) if found else path.stem


def render_index(results: ResultsFolder) -> str:
    """The folder in Markdown: claims with verdicts, a line per table with links to its files, and the commands."""
    parts = [
        "# Results",
        "Each table is a CSV with one row per number, and beside it the same as Markdown, a figure, and a YAML with "
        "the command and the settings chosen. `csd fit --config configs/<config_hash>.yaml` makes the number of a row "
        "again, for its first seed. `make report` shows all of it on one page, `runs/report.html`.",
    ]
    if results.claims is not None:
        lines = ["| claim | verdict | sources |", "| --- | --- | --- |"]
        for claim in results.claims.itertuples():
            links = ", ".join(_link(source, source) for source in claim.sources.split())
            lines.append(f"| {escape(claim.claim)} | {escape(claim.verdict)} | {links} |")
        parts += ["## Claims", "\n".join(lines)]
    lines = ["| table | data | rows | files |", "| --- | --- | --- | --- |"]
    for table in results.tables:
        mark = f"**{SYNTHETIC}**: " * table.synthetic
        counts = ", ".join(f"{count} {name}" for name, count in table.counts.items() if count)
        lines.append(f"| {mark}{escape(table.title)} | {escape(', '.join(table.data))} | {counts} | {_files(table)} |")
    parts += ["## Tables", "\n".join(lines), "## Commands", "\n".join(["```", *_commands(results), "```"])]
    return "\n\n".join(parts) + "\n"


def _files(table: TableFiles) -> str:
    texts = {f"comparisons/{table.name}.csv": "comparisons"}
    return " ".join(_link(texts.get(name) or name.removeprefix(table.name).lstrip("._"), name) for name in table.files)


def _link(text: str, name: str) -> str:
    return f"[{escape(text)}]({quote(name)})"


def _commands(results: ResultsFolder) -> list[str]:
    commands = [(line, table.title) for table in results.tables for line in table.command.splitlines()]
    commands += [
        ("python -m reproduce report", "this page and runs/report.html, from the files"),
        ("python -m reproduce compare", "each number beside the published one, or what differs"),
        ("python -m reproduce diff NEW.csv OLD.csv", "one table against another, number by number"),
    ]
    width = max(len(command) for command, _ in commands)
    return [f"{command.ljust(width)}  # {what}" for command, what in commands]
