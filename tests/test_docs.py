"""What README and docs tell a reader to do works as it is written."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import yaml
from cli_cases import resolved
from PIL import Image
from runner_cases import command

import losses
from datamodules.__main__ import main as datamodules
from lightning_modules.cli import main
from lightning_modules.commands import TRAINER_COMMANDS
from reproduce.__main__ import COMMANDS, _parse
from reproduce.runs.spec import read_file

ROOT = Path(__file__).parents[1]
PAGES = {page.name: page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}


def _blocks(page: str, language: str = "") -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", PAGES[page], flags=re.DOTALL | re.MULTILINE)
    return [text for kind, text in fenced if kind == language]


def _commands(page: str) -> list[list[str]]:
    """The words of the commands on a page, each without the folder of its program."""
    lines = [
        line for kind in ("", "bash") for text in _blocks(page, kind) for line in text.replace("\\\n", " ").splitlines()
    ]
    found = [shlex.split(line, comments=True) for line in lines]
    return [[words[0].removeprefix(".venv/bin/"), *words[1:]] for words in found if words]


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


def test_the_page_on_losses_shows_the_files_and_its_loss_has_a_value():
    names: dict = {}
    whole, reference, use = _blocks("add-a-loss.md", "python")
    assert whole == (ROOT / "losses" / "mil_nce.py").read_text(encoding="utf-8")
    assert reference in (ROOT / "tests" / "reference.py").read_text(encoding="utf-8")
    exec(use, names)
    assert [type(names[name]) for name in ("loss", "of_three")] == [losses.MILNCELoss, losses.PairwiseLoss]


def test_the_page_on_data_sets_trains_and_looks_after_files(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CSD_DATA", raising=False)
    tree("pascal_sentences")
    Path("data").symlink_to(tree("utd_mhad").parent)
    _, snippet = _blocks("add-a-data-set.md", "python")
    names: dict = {}
    exec(snippet.replace("max_epochs=10", "max_epochs=1, logger=False, enable_checkpointing=False"), names)
    assert names["model"].trainer.global_step > 0
    done = [words for words in _commands("add-a-data-set.md") if words[:3] == ["python", "-m", "datamodules"]]
    assert [(words[3], datamodules(words[3:])) for words in done] == [("list", 0), ("check", 0), ("extract", 0)]


def test_the_page_on_training_exports_a_model_and_searches(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    rows = [
        (f"photos/{colour}-{i}.jpg", f"{colour} number {i}", colour) for colour in ("red", "blue") for i in range(8)
    ]
    for name, _, colour in rows:
        Image.new("RGB", (32, 32), colour).save(name)
    Image.new("RGB", (32, 32), "red").save("dog.jpg")
    pd.DataFrame(rows, columns=["image", "text", "label"]).to_csv("photos.csv", index=False)
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.max_epochs", "1"]
    main(["fit", "--model", "LAVIMO", "--data", "OwnData", "--data.path", "photos.csv", *quiet])
    capsys.readouterr()
    for words in _commands("train-your-own.md"):
        main(words[1:])
    found = capsys.readouterr().out
    assert found.count(".jpg") >= 10


@pytest.mark.parametrize("page", PAGES)
def test_a_command_of_a_page_is_taken(page, capsys):
    for words in _commands(page):
        if words[0] == "torchrun":
            words = ["csd", *words[words.index("lightning_modules") + 1 :]]
        if words[0] == "csd" and words[1] in TRAINER_COMMANDS and not {"...", "results/configs/HASH.yaml"} & {*words}:
            resolved(capsys, *words[1:])
        if words[:3] == ["python", "-m", "reproduce"] and words[3] not in COMMANDS:
            assert _parse(words[3:]).table == words[3]


@pytest.mark.parametrize("page", PAGES)
def test_yaml_of_a_page_is_taken(page, capsys, tmp_path):
    path = tmp_path / "page.yaml"
    for text in _blocks(page, "yaml"):
        block = yaml.safe_load(text)
        if "alignment" in block:
            block = {"model": {"class_path": "LAVIMO", "init_args": block}, "data": {"class_path": "UTDMHAD"}}
        if "model" in block:
            path.write_text(yaml.safe_dump(block), encoding="utf-8")
            resolved(capsys, "fit", "--config", str(path))
        elif "title" not in block:  # methods that a table has beside its own
            path.write_text(f"extends: {ROOT / 'reproduce' / 'tables' / 'table2.yaml'}\n{text}", encoding="utf-8")
            assert block["methods"][-1]["method"] in [method.method for method in read_file("page", tmp_path).methods]


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
