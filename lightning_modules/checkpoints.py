"""Checkpoints: which file is meant, whether it can be read, and which items its model was trained on."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.utilities import rank_zero_warn

from datamodules import RetrievalData
from datamodules.errors import DataError

# Beside the best checkpoint, that of the last epoch, to resume from.
LAST = {"filename": "last", "enable_version_counter": False}
BEST = {
    "monitor": "val/average/MAP",
    "mode": "max",
    "filename": "best-epoch{epoch}",
    "auto_insert_metric_name": False,
}
# Arguments of data modules that do not decide which items are trained on: a digest knows the data, wherever they are.
NEUTRAL = ("batch_size", "shuffle_seed", "labels", "label_seed", "class_encoder", "data_root", "path", "offline")


def checkpoint_file(given: str, root: Path) -> Path:
    """The file that ``--ckpt_path`` means, which can be read.

    Args:
        given: a file; or "last", or "best", of the run that was trained last.
        root: the trainer's default_root_dir, in which runs are looked for.

    Raises:
        DataError: there is no such run, it has no last.ckpt, no best checkpoint or several, or the file cannot be read.
    """
    if given not in ("last", "best"):
        read_checkpoint(Path(given))
        return Path(given)
    found = [file for place in ("checkpoints", "*/*/checkpoints") for file in root.glob(f"{place}/last.ckpt")]
    if not found:
        raise DataError(
            f"--ckpt_path {given}: no run has left a last.ckpt in {root}, the trainer's default_root_dir; name a .ckpt "
            "that csd fit wrote"
        )
    # By time and not by version: a resumed run writes into the folder of the one that it goes on with.
    last = max(found, key=_time)
    _require_of_newest_run(last, given, root)
    content = read_checkpoint(last)
    if given == "last":
        return last
    states = [state for state in content.get("callbacks", {}).values() if state.get("best_model_score") is not None]
    kept = [Path(state["best_model_path"]) for state in states]
    kept = [last.with_name(path.name) if last.with_name(path.name).is_file() else path for path in kept]  # it may move
    best = [path for path in kept if path.is_file()]
    if len(best) != 1:
        known = ", ".join(map(str, best)) or "none"
        raise DataError(f"--ckpt_path best: the last run has {known} (beside {last}); name a file")
    read_checkpoint(best[0])
    return best[0]


def _require_of_newest_run(last: Path, given: str, root: Path) -> None:
    configs = [file for of in ("version", "fit") for file in root.glob(f"csv/{of}_*/config.yaml")]
    begun = max(configs, key=_time, default=None)  # written once, when a run begins
    if begun is None or _time(begun) <= _time(last):
        return
    of_run = sorted(begun.parent.glob("checkpoints/*.ckpt"))
    resumed = yaml.safe_load(begun.read_text(encoding="utf-8")).get("ckpt_path")  # it goes on in that file's folder
    if begun.parent / "checkpoints" / last.name in of_run or (resumed and Path(resumed).parent == last.parent):
        return
    raise DataError(
        f"--ckpt_path {given}: the newest run, {begun.parent}, has left no last.ckpt; name a file, of its own "
        f"({', '.join(map(str, of_run)) or 'there is none in its folder'}) or of an earlier run ({last})"
    )


def _time(path: Path) -> float:
    return path.stat().st_mtime


def read_checkpoint(path: Path, needed: Sequence[str] = ("state_dict",)) -> dict[str, Any]:
    """The content of a checkpoint; a DataError where it cannot be read or lacks a needed entry."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and pickle each have their own ways of refusing a file
        reason, content = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}", None
    else:
        lacking = [name for name in needed if not isinstance(content, dict) or name not in content]
        reason = f"it has no {', '.join(lacking)}" if lacking else ""
    if reason:
        raise DataError(f"{path} is no checkpoint of a model ({reason}); name a .ckpt that csd fit wrote")
    return content


def trained_on(data: RetrievalData) -> dict[str, Any]:
    """What a checkpoint remembers: sha256 of the items trained on or chosen by, and the settings behind them."""
    names = {name for kind in type(data).__mro__ for name in inspect.signature(kind.__init__).parameters}
    settings = {name: vars(data).get(name) for name in sorted(names - {*NEUTRAL})}
    settings = {name: value for name, value in settings.items() if isinstance(value, str | int | float)}
    settings |= {"data": type(data).__name__, "modalities": ", ".join(data.modalities)}
    return {"learned": data.learned_digest, "settings": settings, "origin": data.data.origin}


def require_same_items(remembered: Mapping[str, Any] | None, now: Mapping[str, Any], other: bool) -> None:
    """Refuse data whose training or validation items are others than those that a checkpoint was made with.

    Items that it was trained on could be among those that it is scored on; where they are the same, the split keeps
    them apart from the test items, be those new.

    Args:
        remembered: what `trained_on` said then; None where an earlier version wrote the checkpoint.
        now: what it says of the data that the checkpoint meets.
        other: warn instead.

    Raises:
        DataError: the items differ; the message names the settings that do.
    """
    if "learned" not in (remembered or {}):  # an earlier version wrote nothing, or a digest of another kind
        rank_zero_warn("the checkpoint does not say which items it was trained on; they may be among those scored now")
        return
    if remembered["learned"] == now["learned"]:
        return
    before, after = remembered["settings"], now["settings"]
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    said = "; ".join(f"{name} was {before.get(name)}, is {after.get(name)}" for name in changed)
    message = (
        f"{now['origin']}: the checkpoint was trained on, or chosen by, other items than those of the training and "
        f"validation parts here ({said or 'their content differs'})"
    )
    if not other:
        raise DataError(
            f"{message}, and those scored now may be among them. Set the data as they were; or, to score or train it "
            "on other data on purpose, add --allow_other_data true (in Python: allow_other_data = True of the model)"
        )
    rank_zero_warn(message)
