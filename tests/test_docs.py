"""What README and docs tell a reader to do works as it is written."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import yaml
from runner_cases import command

from lightning_modules.cli import main

ROOT = Path(__file__).parents[1]
PAGES = {page.name: page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}


def _blocks(page: str, language: str = "") -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    return [text for kind, text in fenced if kind == language]


def test_the_snippet_of_the_readme_gives_a_gradient():
    names: dict = {}
    [snippet] = _blocks("README.md", "python")
    exec(snippet, names)
    assert all(bool(embedding.grad.isfinite().all()) for embedding in names["embeddings"].values())


def test_the_table_of_the_page_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    [text] = _blocks("add-a-table.md", "yaml")
    short = re.sub(r"min_steps: \[[^]]*\], ", "", text).replace("max_epochs: 15", "max_epochs: 1").replace("256", "16")
    (tmp_path / "table10.yaml").write_text(short, encoding="utf-8")
    monkeypatch.delenv("CSD_DATA", raising=False)
    assert command(tmp_path, "table10", "--out", tmp_path, "--offline", "--seeds", "0").status == 0
    rows = pd.read_csv(tmp_path / "synthetic" / "table10.csv")
    assert set(rows["method"]) == {"JFSE + MMD", "JFSE + CS"}
    assert set(rows["status"]) == {"ok"}


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page: str):
    text = PAGES[page]
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert link.startswith("http") or (folder / link).exists(), link
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {"table1", "scaling", *re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE)}
    targets |= {path.stem for path in ROOT.glob("reproduce/*/*.yaml")}
    for block in _blocks(page):
        words = shlex.split(block.replace("\\\n", " "), comments=True)
        for before, word in pairwise(words):
            if before == "--config" and "HASH" not in word:
                assert isinstance(yaml.safe_load((ROOT / word).read_text(encoding="utf-8")), dict)
            if before == "make":
                assert word in targets


def _output(text: str) -> list[str]:
    """Lines that say what was understood, and averages, without the digits that a machine may round otherwise."""
    kept = [line for line in text.splitlines() if "modalities:" in line or line.startswith("average/MAP ")]
    return [re.sub(r"(\.\d)\d+", r"\1", line) for line in kept]


def test_the_page_of_own_data_says_what_its_commands_print(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datamodules.datasets.own_data.rank_zero_info", print)
    names: dict = {}
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", PAGES["your-own-data.md"], flags=re.DOTALL | re.MULTILINE)
    printed, scores = "", []
    for language, text in fenced:
        if language == "python":
            exec(text, names)
        elif language == "text":
            assert _output(printed) == _output(text)
        elif "FILE_OR_FOLDER" not in text:
            capsys.readouterr()
            main([*shlex.split(text.replace("\\\n", " "))[1:], "--trainer.enable_progress_bar", "false"])
            printed = capsys.readouterr().out
            scores += re.findall(r"^image->text/MAP +(0\.\d{4})", printed, flags=re.MULTILINE)
    assert f"{names['MAP']:.4f}" == scores[-1]
    assert f"{names['MAP']:.1f}" in re.search(r"# (0\.\d)", PAGES["your-own-data.md"])[1]
