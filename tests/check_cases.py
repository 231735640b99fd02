"""What the tests of `python -m datamodules check` and `list` share."""

from __future__ import annotations

from pathlib import Path

from datamodules.__main__ import main
from datamodules.datasets import DATASETS


def checked(dataset: str, folder: Path, capsys) -> tuple[int, str]:
    """Exit status and output for the data set in a folder."""
    status = main(["check", dataset, "--data-root", str(folder.parent)])
    return status, capsys.readouterr().out


def faulty(dataset: str, folder: Path, capsys) -> str:
    """What is said of a copy that must not pass: what is wrong, then what is expected and where to get it."""
    status, said = checked(dataset, folder, capsys)
    assert status == 1, said
    assert "trouble(s)" in said
    assert f"Expected in {DATASETS[dataset].folder}/: {DATASETS[dataset].content}. " in said
    assert f"Get it from {DATASETS[dataset].url}" in said
    return said


def listed(root: Path, capsys) -> dict[str, str]:
    """Data set -> its line in the list."""
    assert main(["list", "--data-root", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: line for line in lines}
