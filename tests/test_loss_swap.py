"""Every registered loss by every form of the command line, on a model of two modalities or of three."""

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
