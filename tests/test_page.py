"""The report: one page with every number of a folder, and the folder's index."""

from __future__ import annotations

import csv
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from reproduce.claims import FAILS, HOLDS, Claim, write_claims
from reproduce.comparisons import Comparison, read_comparisons, write_comparisons
from reproduce.page import main
from reproduce.published import with_published
from reproduce.render import write_markdown
from reproduce.schema import DECIMALS, Row, write_table

ROW = Row(
    table="table3",
    method="JFSE + CMPM-KL",
    dataset="wikipedia",
    features="cnn4096-doc300",
    split="standard",
    gallery="full",
    protocol="as_published",
    direction="average",
    metric="MAP",
    k="all",
    value=0.389123,
    std=0.004321,
    seeds=(0, 1, 2),
    n_queries=693,
    n_gallery=700,
    status="ok",
    data_kind="real",
    scale="quick",
    train_seconds=12.345,
    device="cpu, 2 threads",
    git_commit="0f0f0f0",
    torch="2.11.0",
    config_hash="a1b2",
)
OTHER = replace(ROW, method="JFSE + CS", value=0.391456, config_hash="c3d4")
RANK = replace(ROW, metric="MedR", k=None, value=21.5, std=1.25)
HONEST = replace(ROW, protocol="honest", value=0.4)
NOT_RUN = replace(
    ROW, method="CCA", dataset="nus_wide", status="not_run", value=None, std=None, seeds=(), note="no folder nus_wide/"
)
FAILED = replace(NOT_RUN, method="JFSE", status="failed", note="loss is NaN at step 3")
ROWS = (with_published(ROW), OTHER, RANK, replace(RANK, method="JFSE + CS", value=3.25), HONEST, NOT_RUN, FAILED)
COMPARISON = Comparison(
    table="table3",
    dataset="wikipedia",
    features="cnn4096-doc300",
    split="standard",
    protocol="honest",
    scale="quick",
    data_kind="real",
    method="JFSE + CS",
    baseline="JFSE + CMPM-KL",
    metric="MAP",
    difference=-0.002345,
    low=-0.006789,
    high=0.001234,
    p=0.012345,
    p_holm=0.02469,
    seeds=(0, 1, 2),
    n_queries=693,
)
CLAIMS = [
    Claim("CS retrieves <better> than KL", FAILS, "0 of 1 differences. first; second", "comparisons/table3.csv"),
    Claim("It is stable", HOLDS, "all finite", "table3.csv table3.png"),
]
COMPANION = {
    "table": "table3",
    "command": "python -m reproduce table3 --only 'method=JFSE + CS'",
    "scale": {"quick": {"max_epochs": 20}},
    "chosen_on_validation": {
        "wikipedia/cnn4096-doc300": {
            "JFSE + CS": {
                "chosen": {"alignment_weight": 0.3, "alignment": {"temperature": 0.2}},
                "trials": [
                    {"alignment_weight": 0.1, "validation MAP": 0.41},
                    {"alignment_weight": 0.3, "alignment": {"temperature": 0.2}, "validation MAP": 0.42},
                ],
            }
        }
    },
}
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """A page as its elements (tag, attributes, text inside); refuses tags that do not close where they must."""

    def __init__(self, html: str):
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {[tag for tag, _, _ in self.open]}"

    def handle_starttag(self, tag: str, attributes: list) -> None:
        element = (tag, dict(attributes), [])
        assert len(dict(attributes)) == len(attributes), f"an attribute twice in {tag}"
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attributes: list) -> None:
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1][0] == tag, f"</{tag}> closes <{self.open[-1][0]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for _, _, text in self.open:
            text.append(data)

    def all(self, tag: str, **wanted: str) -> list[tuple[dict[str, str], str]]:
        """Attributes and text (spaces made one) of the elements of a tag with the wanted attributes."""
        return [
            (attributes, " ".join("".join(text).split()))
            for name, attributes, text in self.elements
            if name == tag and all(attributes.get(key) == value for key, value in wanted.items())
        ]


def _folder(tmp_path: Path, *rows: Row) -> Path:
    write_table(rows or ROWS, tmp_path / "table3.csv")
    write_comparisons([COMPARISON], tmp_path / "comparisons" / "table3.csv")
    write_claims(CLAIMS, tmp_path / "claims.csv")
    write_markdown(tmp_path / "table3.csv", "Table 3: zero-shot *retrieval*")
    (tmp_path / "table3.yaml").write_text(yaml.safe_dump(COMPANION, sort_keys=False))
    Image.new("RGB", (4, 3)).save(tmp_path / "table3.png")
    Image.new("RGB", (3, 3)).save(tmp_path / "table3_projection_wikipedia.png")
    return tmp_path


def _page(folder: Path) -> Page:
    assert main(["--out", str(folder)]) == 0
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def _line(page: Page, anchor: str) -> list[str]:
    """Text of the cells of the row with this id."""
    row = page.html[page.html.index(f'<tr id="{anchor}"') :].split("</tr>")[0] + "</tr>"
    return [" ".join("".join(text).split()) for tag, _, text in Page(row).elements if tag in ("td", "th")]


def test_every_number_of_the_files_is_on_the_page(tmp_path: Path) -> None:
    _folder(tmp_path)
    page = _page(tmp_path)
    cells = {text for tag in ("td", "dd") for _, text in page.all(tag)}
    values = {float(attributes["data-value"]) for attributes, _ in page.all("td") if attributes.get("data-value")}
    with (tmp_path / "table3.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["status"] == "ok"]
    assert len(lines) == 5
    for line in lines:
        for name in (*DECIMALS, "seeds", "n_queries", "n_gallery", "config_hash", "git_commit", "device", "torch"):
            assert not line[name] or line[name] in cells, name
        assert float(line["value"]) in values
    [comparison] = read_comparisons(tmp_path / "comparisons" / "table3.csv")
    assert {getattr(comparison, name) for name in ("difference", "low", "p", "p_holm", "n_queries")} <= values
    assert "−0.007 to +0.001" in cells
    assert page.all("b") != []
    assert "0.025" in [text for _, text in page.all("b")]


def test_a_number_leads_to_its_provenance(tmp_path: Path) -> None:
    page = _page(_folder(tmp_path))
    [(link, text)] = [
        (attributes, text) for attributes, text in page.all("a") if "0.391456" in attributes.get("title", "")
    ]
    assert text == "0.391"
    assert "config_hash: c3d4" in link["title"]
    line = _line(page, link["href"].removeprefix("#"))
    assert line[:2] == ["JFSE + CS", "average MAP"]
    assert {"0.391456", "0.004321", "c3d4"} <= set(line)
    facts = [text for _, text in page.all("dd")]
    assert {"cpu, 2 threads", "2.11.0", "0f0f0f0", "0 1 2", COMPANION["command"]} <= set(facts)


def test_sections_follow_data_and_protocol_and_hold_best_published_and_delta(tmp_path: Path) -> None:
    page = _page(_folder(tmp_path))
    headings = [text for _, text in page.all("h3")]
    assert "wikipedia, cnn4096-doc300, standard, as_published" in headings
    assert "wikipedia, cnn4096-doc300, standard, honest" in headings
    assert len([text for text in headings if text.startswith("wikipedia")]) == 2
    assert [text for _, text in page.all("a", **{"class": "best"})] == ["0.391", "3.25"]
    headers = [(attributes["data-first"], text) for attributes, text in page.all("th") if "data-first" in attributes]
    assert ("descending", "average published MAP") in headers
    assert ("ascending", "average MedR") in headers
    assert ({"data-value": "0.506"}, "0.506") in page.all("td")
    assert ({"data-value": "-0.116877"}, "−0.117") in page.all("td")


def test_what_is_missing_stands_with_its_reason(tmp_path: Path) -> None:
    page = _page(_folder(tmp_path))
    missing = [text for _, text in page.all("li") if " row: " in text]
    assert missing[0].startswith("Not run, 1 row: no folder nus_wide/ dataset nus_wide · ")
    assert missing[0].endswith("method CCA")
    assert missing[1].startswith("Failed, 1 row: loss is NaN at step 3")


def test_claims_summary_and_settings(tmp_path: Path) -> None:
    page = _page(_folder(tmp_path))
    assert [text for _, text in page.all("p", **{"class": "verdict"})] == [FAILS, HOLDS]
    assert {"first", "second"} <= {text for _, text in page.all("li")}
    links = {text: attributes["href"] for attributes, text in page.all("a")}
    assert links["comparisons/table3.csv"] == "comparisons/table3.csv"  # the last of its name, among the files
    assert ({"href": "#table3-comparisons"}, "comparisons/table3.csv") in page.all("a")
    [(_, row)] = [(a, text) for a, text in page.all("tr") if text.startswith("Table 3: zero-shot")]
    assert row == "Table 3: zero-shot *retrieval* wikipedia (real) quick 5 1 1 1"
    [(_, chosen)] = page.all("tr", **{"class": "chosen"})
    assert chosen.startswith("JFSE + CS")
    assert "alignment_weight = 0.3, alignment.temperature = 0.2" in chosen
    assert "0.42" in chosen
    assert "max_epochs: 20" in page.all("pre")[0][1]


def test_the_page_loads_nothing_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    page = _page(_folder(tmp_path))
    identifiers = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    for tag, attributes, _ in page.elements:
        assert tag not in ("iframe", "object", "embed", "base")
        assert attributes.get("src", "data:").startswith("data:")
        assert not {"srcset", "background", "poster", "onclick"} & attributes.keys()
        if tag == "link":
            assert attributes["href"] == "data:,"
        if tag == "a" and attributes["href"].startswith("#"):
            assert attributes["href"][1:] in identifiers
        elif tag == "a":
            assert (tmp_path / unquote(attributes["href"])).is_file()
    for _, text in [*page.all("style"), *page.all("script")]:
        assert "url(" not in text
        assert "@import" not in text
        assert "http" not in text
    images = page.all("img")
    assert len(images) == 2
    assert all(attributes["alt"].startswith("Table 3: zero-shot") for attributes, _ in images)
    assert images[1][0]["alt"].endswith("Projection wikipedia.")


def test_the_gap_stands_in_digits_that_tell_and_its_figure_before_the_projections(tmp_path: Path) -> None:
    gap = replace(ROWS[0], published=None, published_source="", delta=None, n_queries=None, n_gallery=None)
    gap = replace(gap, metric="kernel CS", k=None, value=0.011635, std=0.000312)
    _folder(tmp_path, *ROWS, gap)
    Image.new("RGB", (3, 3)).save(tmp_path / "table3_gap.png")
    page = _page(tmp_path)
    captions = ["The numbers below, drawn by method", "The gap between modalities against retrieval, by method"]
    assert [text for _, text in page.all("figcaption")] == [*captions, "Projection wikipedia"]
    assert ({"data-value": "0.011635"}, "0.0116 ± 0.0003") in page.all("td")
    assert "[gap.png](table3_gap.png)" in (tmp_path / "README.md").read_text(encoding="utf-8")


@settings(max_examples=15, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda t: t.isprintable() and t.strip()))
def test_any_text_of_a_table_is_shown_as_it_is(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    method = f"<script>{text.strip()}&amp;\"'"
    folder = tmp_path_factory.mktemp("any")
    write_table([replace(ROW, method=method, note=f"</li>{method}"), NOT_RUN], folder / "mine.csv")
    page = _page(folder)
    assert " ".join(method.split()) in [text for _, text in page.all("th", scope="row")]
    assert len(page.all("script")) == 1
    assert page.all("h2")[-1][1] == "mine"


def test_synthetic_rows_are_marked(tmp_path: Path) -> None:
    write_table([replace(HONEST, data_kind="synthetic")], tmp_path / "table3.csv")
    marks = [text for _, text in _page(tmp_path).all("strong", **{"class": "synthetic"})]
    assert marks == ["Synthetic data"] * 3  # at the top, in the summary and over the section
    assert "**SYNTHETIC DATA**: table3" in (tmp_path / "README.md").read_text()
    write_table([HONEST], tmp_path / "real" / "table3.csv")
    assert _page(tmp_path / "real").all("strong") == []


def test_many_columns_are_split_by_metric(tmp_path: Path) -> None:
    pairs = ["a->b", "b->a", "a->c", "c->a", "average"]
    rows = [replace(row, direction=pair) for row in (HONEST, replace(RANK, protocol="honest")) for pair in pairs]
    write_table(rows, tmp_path / "table6.csv")
    tables = [text for _, text in _page(tmp_path).all("thead") if text.startswith("method a → b")]
    assert len(tables) == 2
    assert tables[0].startswith("method a → b MAP b → a MAP")
    assert tables[1].startswith("method a → b MedR b → a MedR")


def test_measurements_have_a_section_per_metric_and_are_marked_as_generated(tmp_path: Path) -> None:
    measured = replace(HONEST, dataset="random embeddings", data_kind="synthetic", metric="relative error", k=None)
    rows = [
        replace(measured, method=method, features=precision, split=split, value=value, std=None)
        for method in ("CS", "GCS")
        for precision in ("float32", "bfloat16")
        for split, value in (("logits 1", 1.234e-7), ("logits 100", 0.25))
    ]
    write_table([*rows, *(replace(row, metric="seconds/step") for row in rows)], tmp_path / "table1.csv")
    page = _page(tmp_path)
    assert [text for _, text in page.all("h3")] == [
        f"{m}, random embeddings" for m in ("relative error", "seconds/step")
    ]
    assert [text for _, text in page.all("thead")][1] == "method logits 1 logits 100"
    assert "GCS, bfloat16" in [text for _, text in page.all("th", scope="row")]
    assert {text for _, text in page.all("strong")} == {"Generated inputs"}
    line = _line(page, "table1-2")
    assert line[:2] == ["CS, float32", "logits 1"]
    assert "1.234e-07" in line
    assert page.all("a", **{"class": "best"}) == []
    assert page.all("p", **{"class": "warning"}) == []


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    _page(folder)
    first = [(folder / name).read_bytes() for name in ("report.html", "README.md")]
    _page(folder)
    assert [(folder / name).read_bytes() for name in ("report.html", "README.md")] == first


def test_the_index_names_every_file_and_command(tmp_path: Path) -> None:
    _page(_folder(tmp_path))
    index = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert (
        r"| CS retrieves \<better> than KL | does not hold | [comparisons/table3.csv](comparisons/table3.csv) |"
        in index
    )
    assert r"| Table 3: zero-shot \*retrieval\* | wikipedia (real) | 5 ok, 1 not run, 1 failed, 1 beside a" in index
    files = ["[md](table3.md)", "[csv](table3.csv)", "[yaml](table3.yaml)", "[png](table3.png)"]
    assert " ".join([*files, "[projection_wikipedia.png](table3_projection_wikipedia.png)"]) in index
    assert COMPANION["command"] in index


def _break_line(folder: Path, name: str, line: int, old: str, new: str) -> None:
    lines = (folder / name).read_text().splitlines(keepends=True)
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new)
    (folder / name).write_text("".join(lines))


@pytest.mark.parametrize(
    ("name", "line", "old", "new", "said"),
    [
        ("table3.csv", 3, "0.391456", "much", "table3.csv, line 3: value is 'much'"),
        ("table3.csv", 1, "value,", "", "table3.csv, line 1: the header lacks value"),
        ("comparisons/table3.csv", 2, "0.012345", "p", "table3.csv, line 2: "),
        ("claims.csv", 3, "holds", "perhaps", "claims.csv, line 3: "),
        ("claims.csv", 3, "table3.png", "table9.png", "names the source table9.png, which is not in"),
        ("table3.yaml", 1, "table:", "table: {", "table3.yaml, line "),
        ("table3.yaml", 6, "chosen_on_validation:", "other: 1\nchosen_on_validation: {a: {b: 1}}\nc:", "not as it was"),
    ],
)
def test_a_broken_file_is_named_and_the_old_page_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture, name: str, line: int, old: str, new: str, said: str
) -> None:
    folder = _folder(tmp_path)
    _page(folder)
    before = (folder / "report.html").read_bytes()
    _break_line(folder, name, line, old, new)
    assert main(["--out", str(folder)]) == 2
    assert said in capsys.readouterr().err
    assert (folder / "report.html").read_bytes() == before


def test_comparisons_without_their_table_and_a_folder_without_tables_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = _folder(tmp_path)
    write_comparisons([COMPARISON], folder / "comparisons" / "table9.csv")
    assert main(["--out", str(folder)]) == 2
    assert "table9.csv: compares methods of table9.csv, which is not in" in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "nowhere")]) == 2
    assert "run a table first" in capsys.readouterr().err
