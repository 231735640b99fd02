"""What a reader sees of a table: the comparison with published numbers, and the Markdown."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from test_schema import NUMBER

from reproduce.report.markdown import render_markdown
from reproduce.results.compare import compare, format_comparisons, main
from reproduce.results.published import with_published
from reproduce.results.schema import Row, read_table, table_of, write_table

ROW = replace(NUMBER, method="JFSE + CMPM-KL", direction="average", value=0.389, n_gallery=700, train_seconds=12.34)
SAME_AS_PUBLISHED = replace(ROW, features="cnn4096-doc300", protocol="as_published")
NOT_RUN = replace(
    ROW, method="JFSE + CS", dataset="nus_wide", status="not_run", value=None, std=None, seeds="", note="a|b is absent"
)


def _cells(markdown: str, method: str) -> list[str]:
    line = next(line for line in markdown.splitlines() if line.startswith(f"| {method} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def _table(tmp_path: Path, *rows: Row) -> Path:
    return write_table(rows, tmp_path / "table3.csv")


def _markdown(tmp_path: Path, *rows: Row, title: str = "Table 3") -> str:
    path = _table(tmp_path, *rows)
    return render_markdown(read_table(path), path, title)


def test_compare_gives_the_difference_only_for_the_same_thing(tmp_path: Path) -> None:
    other_method = replace(SAME_AS_PUBLISHED, method="JFSE + CS")
    unpublished = replace(ROW, dataset="utd_mhad", direction="text->motion")
    items = compare(table_of([ROW, SAME_AS_PUBLISHED, other_method, unpublished, NOT_RUN]))
    assert list(items["differs"]) == [("features", "protocol"), (), ("method",), ()]
    assert list(items["delta"]) == pytest.approx([math.nan, 0.389 - 0.506, math.nan, math.nan], nan_ok=True)
    assert [other and other.value for other in items["other"]] == [0.506, 0.506, 0.506, None]


def test_comparison_as_text(tmp_path: Path) -> None:
    zero_shot = replace(SAME_AS_PUBLISHED, split="unseen", method="CCA")
    unpublished = replace(ROW, dataset="utd_mhad", direction="text->motion")
    text = format_comparisons(compare(table_of([ROW, SAME_AS_PUBLISHED, zero_shot, unpublished])))
    near, same, unseen = (" ".join(block.split()) for block in text.split("\n\n"))
    assert near.startswith("table3: wikipedia, features roph, split standard, gallery full, protocol honest")
    assert "JFSE + CMPM-KL average MAP 0.389 ± 0.004 nearest: jfse, Table 4: JFSE 0.506 [1]" in near
    assert near.endswith(
        "[1] not comparable, differs in features (theirs cnn4096-doc300, ours roph), protocol (theirs as published, "
        "ours honest)"
    )
    assert same.endswith("0.389 ± 0.004 0.506 -0.117 differs jfse, Table 4: JFSE")
    assert unseen.endswith("[1] the class split of the published number is not public")
    assert "utd_mhad" not in text


def test_synthetic_numbers_are_not_compared(tmp_path: Path) -> None:
    items = compare(table_of([replace(SAME_AS_PUBLISHED, data_kind="synthetic")]))
    assert list(items["other"]) == [None]
    assert items["delta"].isna().all()
    assert "0.506" not in format_comparisons(items)


def test_main_prints_every_table_and_reports_a_broken_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    _table(tmp_path, SAME_AS_PUBLISHED)
    write_table([NOT_RUN], tmp_path / "table4.csv")
    assert main(["--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "-0.117" in shown
    (tmp_path / "a_broken.csv").write_text("nothing")
    assert main(["--out", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert "-0.117" in shown.out
    assert "a_broken.csv, line 1" in shown.err


def test_main_leaves_the_claims_out_and_refuses_a_table_that_lost_a_column(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = _table(tmp_path, SAME_AS_PUBLISHED)
    (tmp_path / "claims.csv").write_text("claim,verdict,evidence,sources\n")
    assert main(["--out", str(tmp_path)]) == 0
    path.write_text(path.read_text().replace("delta,", "", 1))
    assert main(["--out", str(tmp_path)]) == 1
    assert "table3.csv, line 1: the header lacks delta" in capsys.readouterr().err
    path.unlink()
    assert main(["--out", str(tmp_path)]) == 1
    assert "no tables" in capsys.readouterr().err


def test_main_ends_with_how_many_compare_and_why_the_others_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    unpublished = replace(ROW, dataset="utd_mhad", direction="text->motion")
    agreeing = replace(SAME_AS_PUBLISHED, method="CCA", direction="image->text", value=0.2985)
    others = [replace(ROW, method=name) for name in ("JFSE + CS", "JFSE + MMD")]
    _table(tmp_path, SAME_AS_PUBLISHED, agreeing, ROW, *others, unpublished)
    write_table([replace(ROW, table="table4", data_kind="synthetic")], tmp_path / "table4.csv")
    assert main(["--out", str(tmp_path)]) == 0
    header, third, fourth, _, total = (" ".join(line.split()) for line in capsys.readouterr().out.splitlines()[-5:])
    assert header.startswith("table numbers published agree differ")
    assert third == (
        "table3 6 2 1 1 2 differ in features, protocol, method; 1 differ in features, protocol; 1 nothing published "
        "for data set and metric"
    )
    assert fourth == "table4 1 0 0 0 1 on synthetic data"
    assert total.startswith("2 of 7 numbers have a published one")
    assert "1 agree within 0.01 (ranks: 0.5), 1 differ by more" in total


def test_the_origin_of_the_numbers_is_above_them(tmp_path: Path) -> None:
    path = _table(tmp_path, ROW, replace(ROW, method="CCA", seeds="7", std=None))
    markdown = render_markdown(read_table(path), path, "table3")
    head = markdown.split("\n## ")[0].splitlines()
    assert head[0] == "# table3"
    assert head[2:9] == [
        "- Data: wikipedia (real)",
        "- Scale: quick",
        "- Seeds: 0 1 2 7",
        "- Device: cpu",
        "- Versions: torch 2.11.0",
        "- Commit: 0f0f0f0",
        "- Files: numbers `table3.csv`",
    ]
    (tmp_path / "table3.yaml").write_text("table: table3\n")
    assert "- Files: numbers `table3.csv`, configuration `table3.yaml`" in render_markdown(
        read_table(path), path, "table3"
    )
    assert "- Sizes: 693 queries, 700 in the gallery" in markdown
    assert "SYNTHETIC" not in markdown


def test_methods_down_and_numbers_across(tmp_path: Path) -> None:
    rank = {"metric": "MedR", "k": ""}
    markdown = _markdown(
        tmp_path,
        ROW,
        replace(ROW, method="CCA", value=0.3, std=None, seeds="0", train_seconds=None),
        replace(ROW, metric="R@k", k="10", value=0.5),
        replace(ROW, **rank, value=3.456, std=0.5),
        replace(ROW, method="CCA", **rank, value=2.5, train_seconds=None),
    )
    assert _cells(markdown, "method") == ["method", "average MAP", "average R@10", "average MedR", "train seconds"]
    assert _cells(markdown, "JFSE + CMPM-KL") == [
        "JFSE + CMPM-KL",
        "**0.389 ± 0.004**",
        "0.500 ± 0.004",
        "3.46 ± 0.50",
        "12.3",
    ]
    assert _cells(markdown, "CCA") == ["CCA", "0.300", "–", "**2.50 ± 0.00**", "–"]


def test_ties_as_shown_are_all_bold(tmp_path: Path) -> None:
    methods = {"a": 0.38904, "b": 0.38896, "c": 0.3884}
    markdown = _markdown(tmp_path, *(replace(ROW, method=m, value=v) for m, v in methods.items()))
    assert [_cells(markdown, method)[1].startswith("**") for method in methods] == [True, True, False]


def test_sections_keep_protocols_and_galleries_apart(tmp_path: Path) -> None:
    rows = (ROW, replace(ROW, protocol="as_published"), replace(ROW, gallery="batches-32"), replace(ROW, scale="paper"))
    titles = [line for line in _markdown(tmp_path, *rows).splitlines() if line.startswith("## ")]
    assert len(set(titles)) == len(titles) == 4


def test_a_published_column_stands_only_where_something_is_published(tmp_path: Path) -> None:
    rows = [SAME_AS_PUBLISHED, replace(SAME_AS_PUBLISHED, method="JFSE + CS"), ROW]
    same, own = render_markdown(with_published(table_of(rows)), tmp_path / "table3.csv", "Table 3").split("\n## ")[1:]
    assert _cells(same, "method") == ["method", "average MAP", "published average MAP", "train seconds"]
    assert _cells(same, "JFSE + CMPM-KL")[2] == "0.506"
    assert _cells(same, "JFSE + CS")[2] == "–"
    assert "- Published: jfse, Table 4. X. Xu, K. Lin" in same
    assert "ublished" not in own


def test_what_is_missing_is_listed_once_with_its_reason(tmp_path: Path) -> None:
    other = {"direction": "image->text"}
    failed = replace(NOT_RUN, method="LAVIMO", status="failed", note="loss is NaN at step 3")
    rows = [ROW, NOT_RUN, replace(NOT_RUN, **other), replace(NOT_RUN, method="JFSE + GCS"), failed]
    markdown = _markdown(tmp_path, *rows)
    missing = markdown.split("## Not run\n\n")[1]
    assert missing.count("nus_wide") == 2
    assert r"JFSE + CS, JFSE + GCS. Reason: a\|b is absent" in missing
    assert "## Failed" in missing
    assert "LAVIMO. Reason: loss is NaN at step 3" in missing
    assert "nus_wide" not in markdown.split("## Not run")[0]


def test_synthetic_data_is_announced_at_the_top_and_in_every_title(tmp_path: Path) -> None:
    rows = [replace(row, data_kind="synthetic") for row in (ROW, replace(ROW, dataset="nus_wide"))]
    markdown = _markdown(tmp_path, *rows)
    assert markdown.splitlines()[2].startswith("> **SYNTHETIC DATA.**")
    titles = [line for line in markdown.splitlines() if line.startswith("## ")]
    assert len(titles) == 2
    assert all(title.startswith("## SYNTHETIC DATA: ") for title in titles)
    assert "- Data: wikipedia (synthetic), nus_wide (synthetic)" in markdown


def test_notes_of_numbers_and_special_characters_are_shown(tmp_path: Path) -> None:
    markdown = _markdown(tmp_path, replace(ROW, method="a|b*", note="see <x> of nus_wide and _y"))
    assert r"| a\|b\* |" in markdown
    assert r"- a\|b\*: see \<x> of nus_wide and \_y" in markdown


def test_a_distance_has_three_digits_and_its_deviation_as_many_decimals(tmp_path: Path) -> None:
    gap = replace(ROW, metric="kernel CS", k="", value=0.011635, std=0.000312, n_queries=None, n_gallery=None)
    less = replace(gap, method="JFSE + CS", value=0.008712, std=0.00014)
    markdown = _markdown(tmp_path, gap, less)
    assert _cells(markdown, "JFSE + CMPM-KL")[1] == "0.0116 ± 0.0003"
    assert _cells(markdown, "JFSE + CS")[1] == "**0.00871 ± 0.00014**"


def test_measures_with_one_column_each_share_a_block_and_what_is_by_chance_is_never_best(tmp_path: Path) -> None:
    directions = ("text->image", "image->text", "average")
    many = [replace(ROW, metric=m, k=k, direction=d) for m, k in (("MAP", "all"), ("R@k", 1)) for d in directions]
    gap = {"centroid distance": 0.4, "centroid distance by chance": 0.05, "linear separability": 0.7, "kernel CS": 0.2}
    rows = [*many, *(replace(ROW, metric=name, k="", value=value) for name, value in gap.items())]
    other = [replace(row, method="CCA", value=row.value - 0.01) for row in rows]
    markdown = _markdown(tmp_path, *rows, *other)
    headers = [line for line in markdown.splitlines() if line.startswith("| method |")]
    assert len(headers) == 3
    assert headers[2] == f"| method | {' | '.join(f'average {name}' for name in gap)} | train seconds |"
    lower = [line for line in markdown.splitlines() if line.startswith("| CCA |")][-1].split(" | ")
    assert [cell.startswith("**") for cell in lower[1:5]] == [True, False, True, True]


def test_results_of_a_benchmark_by_other_features_are_listed_and_stand_beside_no_number(tmp_path: Path) -> None:
    row = replace(
        ROW,
        dataset="flickr8k",
        features="tf_efficientnet_lite0, all-MiniLM-L6-v2",
        direction="image->text",
        metric="R@k",
    )
    rows = [replace(row, k="1", value=0.3), replace(row, k="10", value=0.7), replace(row, metric="MAP", k="all")]
    path = _table(tmp_path, *rows)
    table = read_table(path)
    assert table["published"].isna().all()
    listed = "MNLM (reported in the paper), features image VGG-19 4096-d (kiros_vse, README, results)"
    numbers = "image->text R@1 0.180, image->text R@10 0.550"
    for text in (format_comparisons(compare(table)), render_markdown(table, path, "Table 4").replace("\\", "")):
        [line] = [line for line in text.splitlines() if "other features" in line and "MNLM" in line]
        assert line.endswith(f"{listed}: {numbers}")
    synthetic = render_markdown(table_of([replace(one, data_kind="synthetic") for one in rows]), path, "Table 4")
    assert "other features" not in synthetic


def test_seeds_stand_below_each_section_where_those_of_a_table_differ(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, condition="labels class", seeds="0 1")]
    for found, named in ((rows, ["- Seeds: 0 1 2", "- Seeds: 0 1 2", "- Seeds: 0 1"]), (rows[:1], ["- Seeds: 0 1 2"])):
        text = render_markdown(table_of(found), tmp_path / "table3.csv", "Table 3")
        assert [line for line in text.splitlines() if line.startswith("- Seeds")] == named
