"""The report page and the index: what a results folder holds is on them, and broken files are named."""

import html
import re
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from test_schema import NUMBER
from test_significance import ENTRY, comparisons

import reproduce.__main__ as command_line
from reproduce.report.markdown import render_markdown
from reproduce.report.page import read_results, render_index, render_page
from reproduce.results.claims import COLUMNS, HOLDS
from reproduce.results.schema import TableError, table_of, write_csv, write_table
from reproduce.results.significance import write_comparisons

RESULTS = Path(__file__).parents[1] / "results"
PUBLISHED = {"published": 0.5, "published_source": "jfse, Table 4", "delta": 0.389123 - 0.5}
YAML = """command: python -m reproduce table3
chosen_on_validation:
  wikipedia/roph:
    JFSE + CS: {chosen: {alignment: {temperature: 0.2}}, trials: [{validation MAP: 0.4}]}
"""


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table of two methods with a published number, comparisons, settings, a figure and claims."""
    rows = [
        NUMBER,
        replace(NUMBER, method="CCA", value=0.3, **{**PUBLISHED, "delta": -0.2}),
        replace(NUMBER, method="JFSE", status="not_run", value=None, std=None, seeds="", note="no folder <x>/"),
        replace(NUMBER, method="JFSE", dataset="nus_wide", status="failed", value=None, std=None, seeds="", note="NaN"),
    ]
    write_table(rows, tmp_path / "table3.csv")
    text = render_markdown(table_of(rows), tmp_path / "table3.csv", "Table 3: zero-shot", comparisons(ENTRY))
    (tmp_path / "table3.md").write_text(text, encoding="utf-8")
    (tmp_path / "table3.yaml").write_text(YAML)
    shutil.copy(RESULTS / "table3.png", tmp_path / "table3.png")
    write_comparisons(comparisons(ENTRY | {"table": "table3"}), tmp_path / "comparisons" / "table3.csv")
    claims = [("CS beats KL", HOLDS, "", "With 5 seeds 1 of 1. Good\nfirst line; one\nsecond line", "table3.csv")]
    write_csv(pd.DataFrame(claims, columns=COLUMNS), tmp_path / "claims.csv")
    return tmp_path


def test_the_page_holds_claims_with_evidence_and_every_table_with_its_figure_and_settings(folder: Path) -> None:
    page = render_page(*read_results(folder))
    text = text_of(page)
    for word in ("0.389 ± 0.004", "0.300", "published image->text MAP", "JFSE, alone", "Reason: no folder <x>/"):
        assert word in text
    assert "<strong>0.389 ± 0.004</strong>" in page
    assert "CS beats KL holds . With 5 seeds 1 of 1. Good. first line; one second line" in text
    assert "python -m reproduce table3" in text
    assert "validation MAP: 0.4" in text
    assert page.count("<img") == 1
    assert "2 ok, 1 not run, 1 failed, 1 beside a published number" in text


def test_the_page_loads_nothing_and_its_links_lead_somewhere(folder: Path) -> None:
    assert command_line.main(["report", "--out", str(folder)]) == 0
    page = (folder / "runs" / "report.html").read_text(encoding="utf-8")
    addresses, places = (re.findall(rf' (?:{name})="([^"]*)"', page) for name in ("href|src", "id"))
    assert addresses
    for address in addresses:
        if address.startswith("#"):
            assert address[1:] in places
        elif not address.startswith("data:"):
            assert (folder / "runs" / unquote(address)).exists(), address
    assert "http" not in " ".join(addresses)
    (folder / "table3.md").unlink()
    (folder / "table3.png").unlink()
    assert command_line.main(["report", "--out", str(folder)]) == 0  # makes both anew
    assert (folder / "table3.md").read_text(encoding="utf-8").startswith("# Table 3: zero-shot cross-modal retrieval\n")
    assert (folder / "runs" / "report.html").read_text(encoding="utf-8") == page  # byte by byte


def test_any_text_of_a_table_is_shown_as_it_is(folder: Path) -> None:
    wild = "<script>alert('x')</script> & &amp; {{ name }} $name \"quoted\" [a](b) *c* | d"
    table = table_of([replace(NUMBER, method=wild, note=wild)])
    (folder / "table3.md").write_text(render_markdown(table, folder / "table3.csv", wild), encoding="utf-8")
    page = render_page(*read_results(folder))
    assert wild not in page
    assert text_of(page).count(wild) == 7  # contents, index, its command, heading, method; in a note twice


def test_the_index_names_every_file_claim_and_command_and_marks_synthetic_data(folder: Path) -> None:
    text = render_index(*read_results(folder))
    for name in ("table3.md", "table3.csv", "table3.yaml", "table3.png", "comparisons/table3.csv"):
        assert f"({name})" in text
    assert "CS beats KL | holds |" in text
    assert "python -m reproduce table3 " in text
    measured = {"metric": "seconds/step", "k": "", "direction": "average", "data_kind": "synthetic", "value": 0.01}
    write_table([replace(NUMBER, **measured)], folder / "scaling.csv")
    assert "SYNTHETIC" not in render_index(*read_results(folder))
    write_table([replace(NUMBER, data_kind="synthetic")], folder / "synthetic.csv")
    assert "SYNTHETIC DATA" in render_index(*read_results(folder))


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("table3.csv", "nothing", "table3.csv, line 1"),
        ("table3.yaml", "a: [", "table3.yaml"),
        ("claims.csv", "claim\n", "claims.csv, line 1"),
        ("comparisons/table9.csv", "table\n", "table9.csv"),
        ("claims.csv", f"{','.join(COLUMNS)}\na,{HOLDS},,b,table8.csv\n", "table8.csv"),
    ],
)
def test_a_broken_file_is_named_and_the_old_page_stays(
    folder: Path, name: str, content: str, named: str, capsys: pytest.CaptureFixture
) -> None:
    (folder / "runs").mkdir()
    (folder / "runs" / "report.html").write_text("before")
    (folder / name).write_text(content)
    assert command_line.main(["report", "--out", str(folder)]) == 2
    assert named in capsys.readouterr().err
    assert (folder / "runs" / "report.html").read_text() == "before"


def test_a_folder_without_tables_is_refused_and_the_committed_results_make_a_page(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="run a table first"):
        read_results(tmp_path)
    tables, claims = read_results(RESULTS)
    assert len(tables) > 15
    assert "Table 7" in render_page(tables, claims)
