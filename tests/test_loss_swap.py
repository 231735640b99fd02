"""Every registered loss by every form of the command line, on a model of two modalities or of three."""

import logging

import pytest
import torch
import yaml
from cli_cases import CONFIG, csd
from loss_cases import OPTIONS

from losses import available_losses, build_loss, registry


def setting(name: str) -> dict[str, float]:
    """A keyword of a loss, and a value; none for a loss without any."""
    return {key: OPTIONS[key] for key in registry.keywords(name)[:2] if key in OPTIONS}


def words(name: str) -> list[str]:
    return [word for key, value in setting(name).items() for word in (f"--model.alignment.{key}", str(value))]


# form -> what the file says of the alignment, and words of the command line
FORMS = {
    "name": lambda name, path: (name, []),
    "class": lambda name, path: ({"class_path": path, "init_args": setting(name)}, []),
    "name and arguments": lambda name, path: (None, ["--model.alignment", name, *words(name)]),
    "name in the file, arguments": lambda name, path: (name, words(name)),
}
CASES = [(name, form) for name in available_losses() for form in FORMS]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_every_loss_is_given_by_every_form(tmp_path, name, form):
    """A step of the model that was asked for; the checkpoint tells the loss that it was trained with."""
    built = build_loss(name, **({} if form == "name" else setting(name)))
    said, given = FORMS[form](name, f"losses.{type(built).__name__}")
    alignment = {} if said is None else {"alignment": said}
    model = {"class_path": "LAVIMO", "init_args": {"dim": 16, **alignment}}
    config = {"model": model, "data": {"class_path": "SyntheticItems"}}
    if built.takes_two:
        config = {"model": {"class_path": "JFSE", "init_args": {"width": 16, **alignment}}, "data": CONFIG["data"]}
    trainer = {**CONFIG["trainer"], "max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "logger": False}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**config, "trainer": trainer}))
    csd("fit", tmp_path, *given, config=path)
    checkpoint = next((tmp_path / "run").rglob("*.ckpt"))
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["alignment"] == repr(built)
    assert all(weight.isfinite().all() for weight in saved["state_dict"].values())


@pytest.mark.parametrize(
    ("alignment", "given", "said"),
    [
        ("gcs", [], ["3 modalities", "at temperature 0.1", "kl at 0.025", "at 0.4"]),
        ("gcs", ["--model.alignment.temperature", "0.4"], []),
        ("pairwise", ["--model.alignment.divergence", "cs"], []),
        ("pairwise", ["--model.alignment.temperature", "0.01"], []),  # that of kl itself: as sharp as it says
        ("mil_nce", [], []),
        ("symile", [], []),
    ],
)
def test_a_temperature_that_is_far_sharper_than_it_reads_is_said(alignment, given, said, tmp_path, capsys):
    name = "JFSE" if alignment == "mil_nce" else "LAVIMO"
    data = CONFIG["data"] if name == "JFSE" else {"class_path": "SyntheticItems"}
    model = {"class_path": name, "init_args": {"width": 16} if name == "JFSE" else {"dim": 16}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"model": model, "data": data, "trainer": CONFIG["trainer"]}))
    csd("fit", tmp_path, "--model.alignment", alignment, *given, "--trainer.fast_dev_run", "true", config=path)
    lines = [line for line in capsys.readouterr().err.splitlines() if "as sharp as" in line]
    assert len(lines) == bool(said)
    assert all(fact in line for line in lines for fact in said)


def test_no_service_of_others_is_advertised(tmp_path, caplog, monkeypatch):
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    csd("fit", tmp_path, "--trainer.fast_dev_run", "true", config=path)
    assert "GPU available" in caplog.text
    assert "litlogger" not in caplog.text
