"""`python -m datamodules list`, the catalogue behind it, and which forms of a data set a folder has."""

import re
import subprocess
import sys

import pytest
from check_cases import listed
from tiny_trees import TREES

from datamodules.__main__ import main
from datamodules.datasets import DATASETS
from datamodules.listing import used_by
from reproduce.names import table_files
from reproduce.runs.spec import read_file


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
    assert "used by table2, table3, " in lines["wikipedia"]


def test_present_incomplete_and_absent(tree, capsys):
    tree("wikipedia")
    nus_wide = tree("nus_wide")
    (nus_wide / "Low_Level_Features" / "Test_Normalized_WT.dat").unlink()
    lines = listed(nus_wide.parent, capsys)
    assert re.match(r"wikipedia +present +as raw; 2,866", lines["wikipedia"])
    lacks = r"low-level lacks Low_Level_Features/Test_Normalized_WT\.dat; 269,648"
    assert re.match(rf"nus_wide +incomplete +{lacks}", lines["nus_wide"])
    assert lines["kit_ml"].split()[1] == "absent"


@pytest.mark.slow
def test_the_tables_of_the_list_are_those_that_read_the_data_set_when_they_are_loaded():
    expected: dict[str, list[str]] = {}
    for name in table_files():
        for dataset in dict.fromkeys(entry.dataset for entry in read_file(name).datasets):
            expected.setdefault(dataset, []).append(name)
    assert used_by() == expected


HEAVY = """
assert not {"torch", "lightning", "pandas", "scipy"} & set(sys.modules)
"""


def test_the_list_needs_no_torch(tmp_path):
    code = f"""import sys
from datamodules.__main__ import main
assert main(["list", "--data-root", {str(tmp_path)!r}]) == 0
"""
    said = subprocess.run([sys.executable, "-c", code + HEAVY], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("\n") == len(DATASETS)


def test_a_table_that_there_is_not_is_answered_without_torch():
    code = """import sys
from reproduce.__main__ import main
try:
    main(["tabel3"])
except SystemExit as end:
    assert end.code == 2
"""
    said = subprocess.run([sys.executable, "-c", code + HEAVY], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "table3" in said.stderr


def test_a_reader_that_has_had_enough_is_no_error(tmp_path):
    command = f"{sys.executable} -m datamodules list --data-root {tmp_path} | true"
    said = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert said.stderr == ""


def test_an_unknown_command_or_data_set_is_refused(capsys):
    for words in (["look"], [], ["get", "imagenet"], ["check", "imagenet"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
    assert "wikipedia" in capsys.readouterr().err


# Forms --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TREES)
def test_a_tree_has_a_form_until_a_path_of_its_is_gone(name, tree):
    folder, facts = tree(name), DATASETS[name.split(",")[0]]
    ((form, lacks),) = facts.lacking(folder).items()
    assert lacks == ()
    for path in facts.forms[form].variants[0]:
        found = sorted(folder.glob(path))
        for number, file in enumerate(found):
            file.rename(folder.parent / f"hidden-{number}")
        assert {path} == {lack for paths in facts.lacking(folder).values() for lack in paths}
        for number, file in enumerate(found):
            (folder.parent / f"hidden-{number}").rename(file)


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
