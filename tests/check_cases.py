"""What the tests of the data sets on their tiny trees, of `python -m datamodules check` and of `list` share."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
from tiny_trees import TREES

from datamodules import DataError
from datamodules.__main__ import main
from datamodules.datasets import DATASETS


def name_of(tree: str) -> str:
    """The data set of a tree."""
    return tree.split(",")[0]


# Tree -> its data module below a root.
MODULES: dict[str, Callable] = {tree: partial(DATASETS[name_of(tree)].open, form) for tree, (_, form) in TREES.items()}
MODULES["nus_wide"] = partial(MODULES["nus_wide"], class_encoder="one-hot")


def refused(tree: str, folder: Path, **arguments) -> str:
    """What the data module says of a copy that it must not read: what is wrong, where to get it and how to check it."""
    with pytest.raises(DataError) as error:
        _ = MODULES[tree](folder.parent, **arguments).data
    declared = DATASETS[name_of(tree)]
    assert declared.url in str(error.value)
    assert f"python -m datamodules check {declared.name}" in str(error.value)
    return str(error.value)


def text(content: str | bytes) -> Callable[[Path], object]:
    """What writes a file anew."""
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


def checked(dataset: str, folder: Path, capsys, hashes: bool = False) -> tuple[int, str]:
    """Exit status and output for the data set in a folder, of which no file need be the known one without hashes."""
    declared = DATASETS[dataset]
    with patch.dict(DATASETS, {dataset: declared if hashes else replace(declared, files=())}):
        status = main(["check", dataset, "--data-root", str(folder.parent)])
    return status, capsys.readouterr().out


def faulty(dataset: str, folder: Path, capsys, hashes: bool = False, troubles: int | str = "") -> str:
    """What is said of a copy that must not pass: what is wrong, then what is expected and where to get it."""
    status, said = checked(dataset, folder, capsys, hashes)
    assert status == 1, said
    assert f"{troubles} trouble(s)" in said
    assert f"Expected in {DATASETS[dataset].folder}/: {DATASETS[dataset].content}. " in said
    assert f"Get it from {DATASETS[dataset].url}" in said
    return said


def listed(root: Path, capsys) -> dict[str, str]:
    """Data set -> its line in the list."""
    assert main(["list", "--data-root", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: line for line in lines}
