"""What a reader sees of a table: the comparison with published numbers and with another table, and the Markdown."""

import math
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
from test_schema import NUMBER

import reproduce.__main__ as command_line
from reproduce.report.markdown import render_markdown
from reproduce.results.compare import compare, format_comparisons, main
from reproduce.results.published import with_published
from reproduce.results.schema import Row, table_of, write_table

ROW = replace(NUMBER, method="JFSE + CMPM-KL", direction="average", value=0.389, n_gallery=700, train_seconds=12.34)
SAME_AS_PUBLISHED = replace(ROW, features="cnn4096-doc300", protocol="as_published")
NOT_RUN = replace(
    ROW, method="JFSE + CS", dataset="nus_wide", status="not_run", value=None, std=None, seeds="", note="a|b is absent"
)


UNPUBLISHED = replace(ROW, dataset="utd_mhad", direction="text->motion")


def _cells(markdown: str, method: str) -> list[str]:
    line = next(line for line in markdown.splitlines() if line.startswith(f"| {method} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def _markdown(*rows: Row, path: Path = Path("table3.csv")) -> str:
    return render_markdown(table_of(rows), path, "Table 3")


def _lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_compare_gives_the_difference_only_for_the_same_thing() -> None:
    other_method = replace(SAME_AS_PUBLISHED, method="JFSE + CS")
    synthetic = replace(SAME_AS_PUBLISHED, data_kind="synthetic")
    items = compare(table_of([ROW, SAME_AS_PUBLISHED, other_method, UNPUBLISHED, NOT_RUN, synthetic]))
    assert list(items["differs"]) == [("features", "protocol"), (), ("method",), (), ()]
    assert list(items["delta"]) == pytest.approx([math.nan, 0.389 - 0.506, *[math.nan] * 3], nan_ok=True)
    assert [other and other.value for other in items["other"]] == [0.506, 0.506, 0.506, None, None]


def test_comparison_as_text() -> None:
    zero_shot = replace(SAME_AS_PUBLISHED, split="unseen", method="CCA")
    text = format_comparisons(compare(table_of([ROW, SAME_AS_PUBLISHED, zero_shot, UNPUBLISHED])))
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


def test_main_prints_every_table_but_the_claims_and_names_a_broken_one(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = write_table([SAME_AS_PUBLISHED], tmp_path / "table3.csv")
    write_table([NOT_RUN], tmp_path / "table4.csv")
    (tmp_path / "claims.csv").write_text("claim,verdict,evidence,sources\n")
    assert main(["--out", str(tmp_path)]) == 0
    assert "-0.117" in capsys.readouterr().out
    write_table([SAME_AS_PUBLISHED], tmp_path / "a.csv")
    path.write_text(path.read_text().replace("delta,", "", 1))
    assert main(["--out", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert "-0.117" in shown.out
    assert "table3.csv, line 1: the header lacks delta" in shown.err
    assert main(["--out", str(tmp_path / "absent")]) == 1
    assert "no tables" in capsys.readouterr().err


def test_main_ends_with_how_many_compare_and_why_the_others_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    agreeing = replace(SAME_AS_PUBLISHED, method="CCA", direction="image->text", value=0.2985)
    others = [replace(ROW, method=name) for name in ("JFSE + CS", "JFSE + MMD")]
    write_table([SAME_AS_PUBLISHED, agreeing, ROW, *others, UNPUBLISHED], tmp_path / "table3.csv")
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
    (tmp_path / "table3.yaml").write_text("table: table3\n")
    rows = (ROW, replace(ROW, method="CCA", seeds="7", std=None, git_commit="1e1e1e1, 0f0f0f0"))
    markdown = _markdown(*rows, path=tmp_path / "table3.csv")
    head = markdown.split("\n## ")[0].splitlines()
    assert [head[0], *head[2:9]] == [
        "# Table 3",
        "- Data: wikipedia (real)",
        "- Scale: quick",
        "- Seeds: 0 1 2 7",
        "- Device: cpu",
        "- Versions: torch 2.11.0",
        "- Commit: 0f0f0f0, 1e1e1e1",
        "- Files: numbers `table3.csv`, configuration `table3.yaml`",
    ]
    assert "- Files: numbers `table3.csv`\n" in _markdown(*rows)
    assert "- Sizes: 693 queries, 700 in the gallery" in markdown
    assert "SYNTHETIC" not in markdown


def test_methods_down_and_numbers_across() -> None:
    rank = {"metric": "MedR", "k": ""}
    markdown = _markdown(
        ROW,
        replace(ROW, method="CCA", value=0.3, std=None, seeds="0", train_seconds=None),
        replace(ROW, metric="R@k", k="10", value=0.5),
        replace(ROW, **rank, value=3.456, std=0.5),
        replace(ROW, method="CCA", **rank, value=2.5, train_seconds=None),
    )
    assert _cells(markdown, "method") == ["method", "average MAP", "average R@10", "average MedR", "train seconds"]
    ours = ["JFSE + CMPM-KL", "**0.389 ± 0.004**", "0.500 ± 0.004", "3.46 ± 0.50", "12.3"]
    assert _cells(markdown, "JFSE + CMPM-KL") == ours
    assert _cells(markdown, "CCA") == ["CCA", "0.300", "–", "**2.50 ± 0.00**", "–"]


def test_ties_as_shown_are_all_bold() -> None:
    methods = {"a": 0.38904, "b": 0.38896, "c": 0.3884}
    markdown = _markdown(*(replace(ROW, method=m, value=v) for m, v in methods.items()))
    assert [_cells(markdown, method)[1].startswith("**") for method in methods] == [True, True, False]


def test_sections_keep_protocols_and_galleries_apart() -> None:
    rows = (ROW, replace(ROW, protocol="as_published"), replace(ROW, gallery="batches-32"), replace(ROW, scale="paper"))
    titles = _lines(_markdown(*rows), "## ")
    assert len(set(titles)) == len(titles) == 4


def test_a_published_column_stands_only_where_something_is_published() -> None:
    rows = [SAME_AS_PUBLISHED, replace(SAME_AS_PUBLISHED, method="JFSE + CS"), ROW]
    same, own = render_markdown(with_published(table_of(rows)), Path("table3.csv"), "Table 3").split("\n## ")[1:]
    assert _cells(same, "method") == ["method", "average MAP", "published average MAP", "train seconds"]
    assert _cells(same, "JFSE + CMPM-KL")[2] == "0.506"
    assert _cells(same, "JFSE + CS")[2] == "–"
    assert "- Published: jfse, Table 4. X. Xu, K. Lin" in same
    assert "ublished" not in own


def test_what_is_missing_is_listed_once_with_its_reason() -> None:
    failed = replace(NOT_RUN, method="LAVIMO", status="failed", note="loss is NaN at step 3")
    others = replace(NOT_RUN, direction="image->text"), replace(NOT_RUN, method="JFSE + GCS")
    before, missing = _markdown(ROW, NOT_RUN, *others, failed).split("## Not run\n\n")
    assert missing.count("nus_wide") == 2
    assert r"JFSE + CS, JFSE + GCS. Reason: a\|b is absent" in missing
    assert "## Failed" in missing
    assert "LAVIMO. Reason: loss is NaN at step 3" in missing
    assert "nus_wide" not in before


def test_synthetic_data_is_announced_at_the_top_and_in_every_title() -> None:
    markdown = _markdown(*(replace(ROW, data_kind="synthetic", dataset=name) for name in ("wikipedia", "nus_wide")))
    assert markdown.splitlines()[2].startswith("> **SYNTHETIC DATA.**")
    assert len(_lines(markdown, "## ")) == len(_lines(markdown, "## SYNTHETIC DATA: ")) == 2
    assert "- Data: wikipedia (synthetic), nus_wide (synthetic)" in markdown


def test_notes_of_numbers_and_special_characters_are_shown() -> None:
    markdown = _markdown(replace(ROW, method="a|b*", note="see <x> of nus_wide and _y"))
    assert r"| a\|b\* |" in markdown
    assert r"- a\|b\*: see \<x> of nus_wide and \_y" in markdown


def test_a_distance_has_three_digits_and_its_deviation_as_many_decimals() -> None:
    gap = replace(ROW, metric="kernel CS", k="", value=0.011635, std=0.000312, n_queries=None, n_gallery=None)
    markdown = _markdown(gap, replace(gap, method="JFSE + CS", value=0.008712, std=0.00014))
    assert _cells(markdown, "JFSE + CMPM-KL")[1] == "0.0116 ± 0.0003"
    assert _cells(markdown, "JFSE + CS")[1] == "**0.00871 ± 0.00014**"


def test_measures_with_one_column_each_share_a_block_and_what_is_by_chance_is_never_best() -> None:
    directions = ("text->image", "image->text", "average")
    many = [replace(ROW, metric=m, k=k, direction=d) for m, k in (("MAP", "all"), ("R@k", 1)) for d in directions]
    gap = {"centroid distance": 0.4, "centroid distance by chance": 0.05, "linear separability": 0.7, "kernel CS": 0.2}
    rows = [*many, *(replace(ROW, metric=name, k="", value=value) for name, value in gap.items())]
    markdown = _markdown(*rows, *(replace(row, method="CCA", value=row.value - 0.01) for row in rows))
    headers = _lines(markdown, "| method |")
    assert len(headers) == 3
    assert headers[2] == f"| method | {' | '.join(f'average {name}' for name in gap)} | train seconds |"
    lower = _lines(markdown, "| CCA |")[-1].split(" | ")
    assert [cell.startswith("**") for cell in lower[1:5]] == [True, False, True, True]


def test_results_of_a_benchmark_by_other_features_are_listed_and_stand_beside_no_number() -> None:
    data = {"dataset": "flickr8k", "features": "tf_efficientnet_lite0, all-MiniLM-L6-v2", "direction": "image->text"}
    row = replace(ROW, **data, metric="R@k")
    rows = [replace(row, k="1", value=0.3), replace(row, k="10", value=0.7), replace(row, metric="MAP", k="all")]
    table = with_published(table_of(rows))
    assert table["published"].isna().all()
    listed = "MNLM (reported in the paper), features image VGG-19 4096-d (kiros_vse, README, results)"
    numbers = "image->text R@1 0.180, image->text R@10 0.550"
    for text in (format_comparisons(compare(table)), _markdown(*rows).replace("\\", "")):
        [line] = [line for line in text.splitlines() if "other features" in line and "MNLM" in line]
        assert line.endswith(f"{listed}: {numbers}")
    assert "other features" not in _markdown(*(replace(one, data_kind="synthetic") for one in rows))


def test_seeds_stand_below_each_section_where_those_of_a_table_differ() -> None:
    rows = [ROW, replace(ROW, condition="labels class", seeds="0 1")]
    assert _lines(_markdown(*rows), "- Seeds") == ["- Seeds: 0 1 2", "- Seeds: 0 1 2", "- Seeds: 0 1"]
    assert _lines(_markdown(ROW), "- Seeds") == ["- Seeds: 0 1 2"]


# One table against another, and against the published numbers ---------------------------------------------------------

MAP = SAME_AS_PUBLISHED
RANK = replace(MAP, metric="MedR", k="", value=21.5)
TIME = replace(MAP, metric="seconds/epoch", k="", value=3.0)
NORM = replace(MAP, metric="gradient norm", k="", value=2000.0)
ABSENT = replace(MAP, value=None, std=None, seeds="", status="not_run", note="no folder wikipedia/")


def _diff_of(*words: object) -> int:
    return command_line.main(["diff", *map(str, words)])


def _diff(tmp_path: Path, first: list[Row], second: list[Row], *words: str) -> int:
    paths = [write_table(rows, tmp_path / f"{name}.csv") for name, rows in (("a", first), ("b", second))]
    return _diff_of(*paths, *words)


@pytest.mark.parametrize(
    ("row", "equal", "different"),
    [(MAP, 0.394, 0.3941), (MAP, 0.384, 0.3839), (RANK, 22.0, 22.1), (NORM, 2010.0, 2011.0)],
)
def test_the_tolerance_of_each_metric(tmp_path: Path, row: Row, equal: float, different: float) -> None:
    assert _diff(tmp_path, [row], [replace(row, value=equal)]) == 0
    assert _diff(tmp_path, [row], [replace(row, value=different)]) == 1


def test_times_are_shown_and_never_count(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert _diff(tmp_path, [MAP, TIME], [MAP, replace(TIME, value=300.0)], "--tolerance", "0") == 0
    shown = capsys.readouterr().out
    assert "times and memory, not counted (1)" in shown
    assert "-297" in shown
    assert shown.splitlines()[-1] == "1 equal within 0, 0 differ, 0 only in A, 0 only in B, 1 times and memory"
    assert _diff(tmp_path, [MAP, TIME], [MAP]) == 0
    slopes = [replace(MAP, metric="exponent", k="", value=value) for value in (2.0, 1.0)]
    assert _diff(tmp_path, [MAP, slopes[0]], [MAP, slopes[1]]) == 1
    slopes = [replace(slope, condition="seconds/step") for slope in slopes]  # fitted to times
    assert _diff(tmp_path, [MAP, slopes[0]], [MAP, slopes[1]]) == 0


def test_differences_come_first_and_counts_last(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = [MAP, replace(MAP, direction="image->text", value=0.5), replace(MAP, method="CCA")]
    second = [MAP, replace(MAP, direction="image->text", value=0.45), replace(MAP, method="JFSE", value=0.3)]
    assert _diff(tmp_path, first, second) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"A {tmp_path / 'a.csv'}", f"B {tmp_path / 'b.csv'}"]
    differs, only_a, only_b = (lines.index(f"{name} (1)") for name in ("differs", "only in A", "only in B"))
    assert differs < only_a < only_b
    assert lines[differs + 2].startswith("  table3: wikipedia, features cnn4096-doc300")
    assert " ".join(lines[differs + 3].split()) == "JFSE + CMPM-KL image->text MAP 0.500 0.450 +0.050"
    assert lines[only_a + 3].split() == ["CCA", "average", "MAP", "0.389", "–"]
    assert lines[only_b + 3].split() == ["JFSE", "average", "MAP", "–", "0.300"]
    assert lines[-1] == "1 equal within 0.005, 1 differ, 1 only in A, 1 only in B, 0 times and memory"
    assert _diff(tmp_path, [MAP], [replace(MAP, value=0.38901)], "--tolerance", "0") == 1
    assert "-0.000010" in capsys.readouterr().out  # with enough digits to be seen


def test_how_the_runs_differ_and_why_nothing_matches_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    second = replace(MAP, seeds="3 4", torch="2.12.0")
    assert _diff(tmp_path, [MAP, replace(ABSENT, method="CCA")], [second]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "seeds: A 0 1 2 | B 3 4" in lines
    assert "torch: A 2.11.0 | B 2.12.0" in lines
    assert "without a number in A, not_run: no folder wikipedia/" in lines
    assert not any(line.startswith(("device", "git_commit")) for line in lines)
    assert _diff(tmp_path, [MAP], [replace(MAP, scale="paper", value=0.5)]) == 1
    assert "no number in common: the two differ in scale" in capsys.readouterr().out
    assert _diff(tmp_path, [ABSENT], [ABSENT]) == 1  # nothing could be compared


def test_bad_input_ends_with_two(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write_table([MAP], tmp_path / "a.csv")
    broken = tmp_path / "broken.csv"
    broken.write_text(path.read_text().replace("0.389000", "1.5"))
    assert _diff_of(path, broken) == 2
    assert "broken.csv, line 2: value is 1.5" in capsys.readouterr().err
    assert _diff_of(path, tmp_path / "absent.csv") == 2
    for words in ([path], [path, path, "--tolerance", "-1"]):
        with pytest.raises(SystemExit, match="2"):
            _diff_of(*words)
    assert "expected a number of at least 0" in capsys.readouterr().err


def test_many_directions_are_a_matrix_of_the_method_that_is_best_on_average() -> None:
    pairs = list(permutations(["text", "image", "sound", "motion"], 2))
    rows = []
    for method, offset in (("JFSE", 0.1), ("JFSE + CS", 0.2)):
        said = {f"{query}->{gallery}": offset + n / 100 for n, (query, gallery) in enumerate(pairs)}
        said |= {"average": offset, "text+image->sound": offset + 0.5}
        rows += [replace(UNPUBLISHED, method=method, direction=name, value=value) for name, value in said.items()]
    text = _markdown(*rows)
    assert _cells(text, "JFSE + CS") == ["JFSE + CS", "**0.200 ± 0.004**", "**0.700 ± 0.004**", "12.3"]
    assert "MAP of JFSE + CS, the best on average" in text
    assert _cells(text, "query")[1:] == ["text", "image", "sound", "motion"]
    assert _cells(text, "image") == ["image", "0.230", "–", "0.240", "0.250"]
