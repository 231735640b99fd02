"""What the command line ``csd`` refuses: messages for people, and nothing spoilt that was finished."""

import re

import cli_cases
import pytest
from cli_cases import checkpoints, refused, write_config

fitted = cli_cases.fitted


WRONG_WORDS = {
    "option": (["--model.init_args.widht", "3"], "widht", "width"),
    "short option": (["--model.widht", "3"], "widht", "width"),
    "trainer option": (["--trainer.max_epoch", "3"], "max_epoch", "max_epochs"),
    "top": (["--modle", "JFSE"], "modle", "model"),
    "data option": (["--data.init_args.clases", "4"], "clases", "classes"),
    "model": (["--model", "JFSEE"], "JFSEE", "JFSE"),
    "data": (["--data", "Syntetic"], "Syntetic", "Synthetic"),
    "loss": (["--model.init_args.alignment", "cmpm_lk"], "cmpm_lk", "cmpm_kl"),
    "loss keyword": (
        ["--model.init_args.alignment", "losses.CSLoss", "--model.init_args.alignment.temprature", "1"],
        "temprature",
        "temperature",
    ),
    "protocol": (["--model.init_args.protocol", "as_publshed"], "as_publshed", "as_published"),
    "model in lower case": (["--model", "jfse"], "jfse", "JFSE"),
    "data in lower case": (["--data", "owndata"], "owndata", "OwnData"),
    "loss in upper case": (["--model.alignment", "GCS"], "GCS", "gcs"),
    "loss class in lower case": (["--model.alignment", "losses.gcsloss"], "losses.gcsloss", "GCSLoss"),
    "option in upper case": (["--Trainer.max_epochs", "3"], "Trainer.max_epochs", "trainer.max_epochs"),
    "no loss": (["--model.alignment", "none"], "none", "null"),
    "no loss, in Python": (["--model.alignment", "None"], "None", "null"),
    "callback": (["--trainer.callbacks+=EarlyStoping"], "EarlyStoping", "EarlyStopping"),
    "summed loss": (["--model.alignment=PairwiseLoss", "--model.alignment.divergence=kll"], "kll", "kl"),
    "name with an argument": (["--model.alignment=Gcs", "--model.alignment.temperature=1"], "Gcs", "gcs"),
    "name with a wrong argument": (["--model.alignment=kl", "--model.alignment.tau=1"], "tau", "temperature"),
}


@pytest.mark.parametrize("case", WRONG_WORDS)
def test_a_wrong_word_on_the_command_line_is_answered_with_the_nearest(case, tmp_path, capsys):
    words, wrong, right = WRONG_WORDS[case]
    message = refused(capsys, "fit", "--config", write_config(tmp_path), *words)
    assert wrong in message
    assert re.search(rf"\b{right}\b", message)
    assert len(message.splitlines()) < 12


@pytest.mark.parametrize(("wrong", "right"), [("fti", "fit"), ("serch", "search")])
def test_a_wrong_command_is_answered_with_the_nearest(wrong, right, capsys):
    assert re.search(rf"{wrong}.*\b{right}\b", refused(capsys, wrong))


WRONG_YAML = {
    "model key": ("width:", "widht:", "width"),
    "trainer key": ("max_epochs:", "max_epoch:", "max_epochs"),
    "top key": ("trainer:", "trianer:", "trainer"),
    "loss keyword": ("alignment: cs", "alignment: {class_path: GCSLoss, init_args: {shceme: mixed}}", "scheme"),
    "loss class": ("alignment: cs", "alignment: {class_path: losses.GCSLos}", "GCSLoss"),
}


@pytest.mark.parametrize("case", WRONG_YAML)
def test_a_wrong_word_in_a_file_is_answered_with_the_nearest(case, tmp_path, capsys):
    right, wrong, nearest = WRONG_YAML[case]
    path = write_config(tmp_path)
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong))
    message = refused(capsys, "fit", "--config", path)
    assert re.search(rf"\b{nearest}\b", message)
    assert len(message.splitlines()) < 12


OF_ANOTHER_LOSS = {
    "mmd": ({"class_path": "losses.MMDLoss", "init_args": {"temperature": 0.1}}, "losses.MMDLoss", "sigma"),
    "coral": ({"class_path": "losses.CORALLoss", "init_args": {"temperature": 0.1}}, "losses.CORALLoss", "none"),
    "dict_kwargs": (
        {"class_path": "PairwiseLoss", "init_args": {"divergence": "mmd"}, "dict_kwargs": {"temperature": 0.1}},
        "mmd",
        "sigma",
    ),
}


@pytest.mark.parametrize("case", OF_ANOTHER_LOSS)
def test_an_argument_of_another_loss_is_answered_with_those_of_this_one(case, tmp_path, capsys):
    alignment, loss, argument = OF_ANOTHER_LOSS[case]
    message = refused(capsys, "fit", "--config", write_config(tmp_path, alignment=alignment))
    said = re.search(r"csd: (.*)", message)[1]
    assert re.search(rf"{re.escape(loss)}.* 'temperature'.*\b{argument}\b", said)
    assert "nearest: temperature" not in said


@pytest.mark.parametrize("model", ["LAVIMO", "CMPM"])
def test_no_loss_is_refused_where_the_model_trains_by_it(model, capsys):
    words = ("--model", model, "--model.alignment", "null", "--data", "Synthetic")
    assert re.search(rf"alignment is null.*{model}", refused(capsys, "fit", *words))


@pytest.mark.parametrize(
    ("content", "said"),
    [("- JFSE\n", "JFSE"), ("", "None"), ("model:\n\tclass_path: JFSE\n", "line 2, .*spaces"), ("a: [1\n", "line 2")],
    ids=["list", "empty", "tab", "unfinished"],
)
def test_a_configuration_that_cannot_be_read_is_named(content, said, tmp_path, capsys):
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    for words in (("--config", path), (f"--config={path}",)):
        assert re.search(rf"{re.escape(str(path))}.*{said}", refused(capsys, "fit", *words))


def test_a_module_that_is_not_there_is_answered_with_where_it_is_looked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    message = refused(capsys, "fit", "--model", "CMPM", "--data", "nowhere_to_be_found.OwnViews")
    assert re.search(rf"nowhere_to_be_found.*{re.escape(str(tmp_path))}.*PYTHONPATH", message)


OWN = """
from datamodules import Synthetic


class OwnViews(Synthetic):
    def read(self):
        return float("wide")
"""


def test_an_error_in_a_data_module_of_ones_own_is_told_with_its_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "views_with_an_error.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    message = refused(capsys, "fit", "--model", "CMPM", "--data", "views_with_an_error.OwnViews")
    assert re.search(r"could not convert string to float: 'wide'.*views_with_an_error\.py, line 7", message)


@pytest.mark.parametrize(
    ("words", "widths"),
    [
        (("--data.init_args.image_dim", "10"), r"image \(8 wide\).*image \(10 wide\)"),
        (("--data.init_args.classes", "4"), r"class_embedding \(3 wide\).*class_embedding \(4 wide\)"),
    ],
)
@pytest.mark.parametrize("command", ["test", "fit"])
def test_a_checkpoint_of_other_widths_is_refused_with_both(command, words, widths, fitted, tmp_path, capsys):
    given = ("--config", write_config(tmp_path), "--trainer.default_root_dir", tmp_path / "run")
    message = refused(capsys, command, *given, "--ckpt_path", checkpoints(fitted, 0)["last"], *words)
    assert re.search(widths, message)
    assert "size mismatch" not in message


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    assert "absent.yaml" in refused(capsys, "fit", "--config", tmp_path / "absent.yaml")
    own = ("--model", "JFSE", "--data", "OwnData", "--data.init_args.path", tmp_path / "absent.npz")
    assert str(tmp_path / "absent.npz") in refused(capsys, "fit", *own)


@pytest.mark.parametrize("exists", [False, True])
def test_a_data_root_without_the_data_is_refused(exists, tmp_path, capsys):
    root = tmp_path / "root"
    if exists:
        root.mkdir()
    words = ("--model", "JFSE", "--data", "Wikipedia", "--data.init_args.data_root", root)
    assert str(root) in refused(capsys, "fit", *words)


@pytest.mark.parametrize(
    "words",
    [("--data.init_args.classes", "1"), ("--model.init_args.width", "wide"), ("--trainer.max_epochs", "ten")],
)
def test_a_value_out_of_range_or_of_the_wrong_kind_is_refused(words, tmp_path, capsys):
    message = refused(capsys, "fit", "--config", write_config(tmp_path), *words)
    assert words[0].rsplit(".", 1)[1] in message
    assert words[1] in message


def test_a_root_that_is_a_file_is_refused(tmp_path, capsys):
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    message = refused(
        capsys, "fit", "--config", write_config(tmp_path), "--trainer.default_root_dir", blocked / "deeper"
    )
    assert str(blocked) in message
    assert "--trainer.default_root_dir" in message
