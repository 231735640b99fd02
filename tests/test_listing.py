"""`python -m datamodules list`, the catalogue behind it, and which forms of a data set a folder has."""

from __future__ import annotations

import re

import pytest
from check_cases import listed
from tiny_trees import write_flickr30k, write_nus_wide, write_pascal, write_tmr, write_wikipedia, write_xmedianet

from datamodules.__main__ import main
from datamodules.datasets import DATASETS
from datamodules.listing import used_by
from reproduce.names import available_tables
from reproduce.runs.checks import load_table


def test_every_data_set_has_one_line_with_size_use_and_source(tmp_path, capsys):
    lines = listed(tmp_path, capsys)
    assert list(lines) == list(DATASETS)
    for dataset, line in lines.items():
        facts = DATASETS[dataset]
        assert line.split()[1] == "absent"
        assert f"{sum(facts.items.values()):,} {facts.unit}" in line
        assert facts.licence in line
        assert (f"python -m datamodules get {dataset}" in line) == bool(facts.files)
        assert facts.url in line
    assert "2,866 image-text pairs (2,173 train, 693 test), 10 classes" in lines["wikipedia"]
    assert "each its own class" in lines["flickr30k"]


def test_present_incomplete_and_absent(tmp_path, capsys):
    write_wikipedia(tmp_path)
    nus_wide = write_nus_wide(tmp_path)
    (nus_wide / "Low_Level_Features" / "Test_Normalized_WT.dat").unlink()
    lines = listed(tmp_path, capsys)
    assert re.match(r"wikipedia +present +as raw; 2,866", lines["wikipedia"])
    lacks = r"as bow; low-level lacks Low_Level_Features/Test_Normalized_WT\.dat; 269,648"
    assert re.match(rf"nus_wide +incomplete +{lacks}", lines["nus_wide"])
    assert lines["kit_ml"].split()[1] == "absent"


def test_the_tables_that_use_a_data_set_are_those_whose_files_name_it(tmp_path, capsys):
    expected: dict[str, list[str]] = {}
    for name in available_tables():
        for dataset in dict.fromkeys(entry.dataset for entry in load_table(name).datasets):
            expected.setdefault(dataset, []).append(name)
    assert used_by() == expected
    lines = listed(tmp_path, capsys)
    assert "table3" in lines["wikipedia"]
    for dataset, line in lines.items():
        assert f"used by {', '.join(expected.get(dataset, ['no table']))};" in line


def test_a_root_that_is_not_there_is_an_error(tmp_path, capsys):
    assert main(["list", "--data-root", str(tmp_path / "nowhere")]) == 1
    assert "does not exist" in capsys.readouterr().out


def test_an_unknown_command_or_data_set_is_refused(capsys):
    for words in (["look"], ["check", "imagenet"], []):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
    assert "wikipedia" in capsys.readouterr().err


# Forms --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "write", "forms"),
    [
        ("wikipedia", write_wikipedia, ["raw"]),
        ("pascal_sentences", write_pascal, ["raw"]),
        ("nus_wide", write_nus_wide, ["low-level", "bow"]),
        ("pku_xmedianet", write_xmedianet, ["features"]),
        ("flickr30k", write_flickr30k, ["karpathy"]),
        ("kit_ml", lambda root: write_tmr(root / "KIT-ML"), ["guoh3dfeats"]),
    ],
)
def test_a_tree_has_its_forms_until_a_path_of_theirs_is_gone(dataset, write, forms, tmp_path):
    folder = write(tmp_path)
    facts = DATASETS[dataset]
    assert facts.lacking(folder) == dict.fromkeys(forms, ())
    hidden = tmp_path / "hidden"
    for path in dict.fromkeys(path for name in forms for path in facts.forms[name].variants[0]):
        found = sorted(folder.glob(path))
        for number, file in enumerate(found):
            file.rename(hidden.with_name(f"hidden-{number}"))
        lacks = facts.lacking(folder)
        assert {path} == {lack for paths in lacks.values() for lack in paths}
        for number, file in enumerate(found):
            hidden.with_name(f"hidden-{number}").rename(file)


def test_paired_features_are_known_in_each_of_their_layouts(tmp_path):
    facts = DATASETS["nus_wide"]
    for number, variant in enumerate(facts.forms["pairs"].variants):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in variant:
            (folder / name.replace("*", "any")).touch()
        assert facts.lacking(folder) == {"pairs": ()}
        next(folder.iterdir()).unlink()
        assert facts.lacking(folder) == ({"pairs": facts.lacking(folder)["pairs"]} if len(variant) > 1 else {})


def test_paths_that_several_forms_share_make_none_of_them_begun(tmp_path):
    (tmp_path / "flickr30k-images").mkdir()
    assert DATASETS["flickr30k"].lacking(tmp_path) == {"karpathy": ("dataset_flickr30k.json",)}
    (tmp_path / "flickr30k_test_captions.jsonl").touch()
    others = ("flickr30k_train_captions.jsonl", "flickr30k_val_captions.jsonl")
    assert DATASETS["flickr30k"].lacking(tmp_path) == {"transcripts": others}


def test_every_data_set_is_described():
    for facts in DATASETS.values():
        assert facts.url.startswith("http")
        assert all((facts.folder, facts.content, facts.licence, facts.citation, facts.unit, facts.items, facts.forms))
        for form in facts.forms.values():
            assert set(form.lists.values()) <= set(form.variants[0])
            assert set(form.lists) <= {*facts.items, "classes"}
