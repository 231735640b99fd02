"""A trained model without what only training needs: ``csd export``, and reading what it wrote."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lightning_modules
from datamodules.batches import Entries
from datamodules.errors import DataError
from datamodules.features.precompute import rows_of
from datamodules.files.sources import sha256_of, user_path
from datamodules.items import Modality, listed
from lightning_modules.base import Batch, RetrievalModule
from lightning_modules.encoded import EncodedModule
from lightning_modules.export_files import (
    COPIES,
    Encoders,
    check_writable,
    held,
    put,
    save_tensors,
    with_copies,
    with_places,
    without_paths,
)
from lightning_modules.lavimo import LAVIMO

FORMAT = 2  # 1 had no copies of the files that encoders name
WEIGHTS, DESCRIPTION = "model.safetensors", "model.yaml"
DIVERGED = "the training has diverged: export an earlier checkpoint, or train again with a lower learning rate"
# Arguments that serve training alone; and a loss that was an object cannot be built from text.
OF_TRAINING = ("alignment", "soft_targets")


def export(checkpoint: Path, out: Path | None = None) -> Path:
    """Write what retrieval needs of a checkpoint, and check that it embeds bit for bit as the checkpoint's model does.

    ``model.safetensors`` holds those parts of the model, which are its attributes, with a tensor that `embed` reads:
    encoders, projections, regressors, statistics, but no critic, generator, fusion or decoder. ``model.yaml`` says how
    the model is built again, what it reads, how it was trained, and the sha256 of the weights. ``encoders/`` holds
    copies of the local files and folders that the encoders' settings name, if any, so that the export can be moved.

    Args:
        checkpoint: a .ckpt that `csd fit`, or a trainer, wrote.
        out: the folder; by default "<name of the checkpoint>-export" beside the checkpoint. An earlier export in it is
            replaced.

    Returns:
        The folder.

    Raises:
        DataError: the checkpoint cannot be read, does not say how its model is built or holds NaN, or the folder is of
            others or cannot be written.
        ValueError: the model embeds an item from all its modalities at once, and so cannot retrieve by one.
    """
    out = Path(out or checkpoint.with_name(f"{checkpoint.stem}-export"))
    _check_free(out)
    model, about = _from_checkpoint(checkpoint)
    batch = _example_batch(model)
    state = model.state_dict()
    parts = {_part(name) for name in state}
    kept = parts & _parts_read(model, batch)
    about["left_out"] = sorted(parts - kept)
    tensors = {name: x.clone() for name, x in state.items() if _part(name) in kept}
    _check_finite(tensors, checkpoint)
    place = out.resolve()  # a link stays one
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as beside:
        folder = Path(beside, "made")  # which has the permissions of any new folder; the one around it has not
        folder.mkdir()
        about["init_args"] = _with_encoders(about["init_args"], lambda encoders: with_copies(encoders, folder))
        save_tensors(folder / WEIGHTS, tensors)
        about["weights_sha256"] = sha256_of(folder / WEIGHTS)
        text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
        (folder / DESCRIPTION).write_text(text, encoding="utf-8")
        _check_same(model, load_export(folder), batch, checkpoint)
        put(folder, place, (COPIES, WEIGHTS, DESCRIPTION))  # an interruption leaves what `load_export` refuses
    return out


def load_export(folder: str | Path) -> RetrievalModule:
    """The model of an export, in evaluation mode on the CPU; parts that were left out are None.

    Args:
        folder: which `export` wrote.

    Raises:
        DataError: a file is missing or damaged, of a newer format or of a class that there is not, the weights are not
            those that were written or not those of the model, or a frozen encoder is another one than in training.
    """
    folder = Path(folder)
    about, weights = _description(folder), held(folder, WEIGHTS)
    if sha256_of(weights) != about["weights_sha256"]:
        raise DataError(
            f"{weights} is not the file that was exported: its sha256 is not that of {DESCRIPTION}; export again"
        )
    arguments = _with_encoders(about["init_args"], lambda encoders: with_places(encoders, folder))
    model = _build(about["class"], arguments, folder / DESCRIPTION)
    for name in about["left_out"]:
        if hasattr(model, name):
            setattr(model, name, None)
    try:
        state = load_file(weights)
    except SafetensorError as error:
        raise DataError(f"{weights} holds no tensors that can be read ({error}); export again") from error
    _load(model, state, weights)
    _check_front_ends(model, about["modalities"], folder)
    return model.eval()


def export_identity(folder: Path) -> str:
    """sha256 over what decides an export's embeddings: weights, class, arguments, front ends; no paths and no versions.

    Raises:
        DataError: it has no description.
    """
    about = _description(folder)
    decisive = {name: about[name] for name in ("class", "modalities", "left_out", "weights_sha256")}
    decisive["init_args"] = _with_encoders(about["init_args"], without_paths)
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def sources(model: RetrievalModule) -> dict[str, Mapping[str, Any]]:
    """Modality -> "kind", "shape" and "rate" of the entries that the model reads."""
    if isinstance(model, EncodedModule):
        return dict(model.sources)
    dims = model.hparams["dims"]
    return {name: {"kind": "vector", "shape": [dims[name]], "rate": None} for name in model.modalities}


def tensors_of(model: RetrievalModule, name: str, entries: Sequence[Any]) -> Entries:
    """Entries of one modality as tensors, through the fixed part of its encoder as in `csd test`; nothing is cached.

    Args:
        model: the model.
        name: a modality of its.
        entries: texts, vectors, sequences, or decoded images or sounds.
    """
    front_end = model.encoders[name].front_end if isinstance(model, EncodedModule) else None
    rows = entries if front_end is None else front_end(entries, sources(model)[name]["rate"])
    return Entries(Modality(rows_of(rows)))


def any_name_to_stdout() -> None:
    """Have names of files printed that are no text in the encoding of the standard output, as escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def command(words: Sequence[str]) -> int:
    """Run ``csd export`` with the words after it; the exit status is returned."""
    parser = argparse.ArgumentParser(
        prog="csd export",
        description="Write what retrieval needs of a checkpoint into a folder, which can then be moved.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", type=user_path, help="a .ckpt that csd fit wrote")
    parser.add_argument("--out", type=user_path, help="folder; by default CHECKPOINT-export beside the checkpoint")
    arguments = parser.parse_args(words)
    any_name_to_stdout()
    out = export(arguments.checkpoint, arguments.out)
    left_out = ", ".join(_description(out)["left_out"]) or "nothing"
    copies = sum(path.stat().st_size for path in (out / COPIES).rglob("*"))
    of_copies = f", {COPIES}/ ({copies / 1e6:.1f} MB of files that encoders need)" * (copies > 0)
    megabytes = (out / WEIGHTS).stat().st_size / 1e6
    print(f"wrote {out}: {WEIGHTS} ({megabytes:.1f} MB, left out: {left_out}){of_copies} and {DESCRIPTION}")
    return 0


def _check_free(out: Path) -> None:
    """What is in the place already must be an export, or nothing."""
    check_writable(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        try:
            _description(out)
        except DataError as error:
            raise DataError(f"{out} exists and is no export; name another folder with --out") from error


# The checkpoint ------------------------------------------------------------------------------------------------------


def _from_checkpoint(path: Path) -> tuple[RetrievalModule, dict[str, Any]]:
    """The model, and what model.yaml says of it."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        state, given = saved["state_dict"], dict(saved.get("hyper_parameters", {}))
    except Exception as error:  # torch, zipfile and pickle each have their own ways of refusing a file
        raise DataError(
            f"{path} is not a checkpoint that can be read ({type(error).__name__}); name a .ckpt that csd fit wrote"
        ) from error
    kind = given.get("_class_path")
    if kind is None:
        raise DataError(
            f"{path} does not say of which class its model is: an earlier version wrote it, or another program. Load "
            "it from Python into its class and save it again with a trainer, or train again"
        )
    arguments = {name: value for name, value in given.items() if name[0] != "_" and name not in OF_TRAINING}
    model = _build(kind, arguments, path)
    if isinstance(model, LAVIMO) and model.preset == "as_published":
        raise ValueError(
            f"{path}: LAVIMO as_published embeds an item from all its modalities at once, and so cannot retrieve by "
            "one of them; train it with preset honest"
        )
    # A model may make room for what it learnt the size of in training. That the loss is another one is no matter.
    model.on_load_checkpoint({**saved, "alignment": repr(model.alignment)})
    _load(model, state, path)
    about = {
        "format": FORMAT,
        "class": kind,
        "init_args": _without_start(arguments, model),
        "modalities": {
            name: {**source, "shape": list(source["shape"]), "front_end": _front_end(model, name)}
            for name, source in sources(model).items()
        },
        "alignment": saved.get("alignment"),
        "validation": saved.get("validation", {}),
        "torch": str(torch.__version__),
        "csd_retrieval": version("csd-retrieval"),
    }
    return model.eval(), about


def _without_start(arguments: Mapping[str, Any], model: RetrievalModule) -> dict[str, Any]:
    """The arguments without the files of weights that trained encoders started from: the export holds what became."""

    def trained(name: str) -> bool:
        return next(model.encoders[name].parameters(), None) is not None

    def without(encoders: Encoders) -> Encoders:
        return {n: {**s, "weights": None} if "weights" in s and trained(n) else s for n, s in encoders.items()}

    return _with_encoders(arguments, without)


def _with_encoders(arguments: Mapping[str, Any], change: Callable[[Encoders], Encoders]) -> dict[str, Any]:
    """The arguments of a model with the settings of its encoders changed, where it has any."""
    encoders = arguments.get("encoders")
    return {**arguments, **({"encoders": change(encoders)} if encoders else {})}


# Building, loading and checking --------------------------------------------------------------------------------------


def _build(path: str, arguments: Mapping[str, Any], origin: Path) -> RetrievalModule:
    module, _, name = str(path).rpartition(".")
    # Among what is imported already: a file does not decide which code is run.
    kind = getattr(sys.modules.get(module), name, None)
    if not (isinstance(kind, type) and issubclass(kind, RetrievalModule)):
        raise DataError(
            f"{origin}: the model is of class {path!r}, which is not there; there are "
            f"{', '.join(lightning_modules.__all__)}, and from Python those that are imported before"
        )
    with torch.random.fork_rng(devices=[]):  # the initial values are drawn, and then overwritten
        try:
            return kind(**arguments)
        except (TypeError, ValueError) as error:
            raise DataError(f"{origin}: {name} cannot be built from the arguments there ({error})") from error


def _load(model: nn.Module, state: Mapping[str, Tensor], origin: Path) -> None:
    wanted = model.state_dict()
    faults = {
        "lacks": [name for name in wanted if name not in state],
        "has, beyond the model's,": [name for name in state if name not in wanted],
        "has of another shape": [name for name in wanted if name in state and wanted[name].shape != state[name].shape],
    }
    said = "; ".join(f"it {what} {listed(names, 3)}" for what, names in faults.items() if names)
    if said:
        raise DataError(f"{origin} does not fit the model that it describes: {said}. Was the suite another version?")
    model.load_state_dict(state)


def _description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        about = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}); name a folder that csd export wrote"
        ) from error
    written = about.get("format") if isinstance(about, dict) else None
    if not isinstance(written, int):
        raise DataError(f"{path} is no description of a model; name a folder that csd export wrote")
    if written > FORMAT:
        raise DataError(f"{path} has format {written}, and this version reads up to {FORMAT}; install a newer one")
    absent = {"class", "init_args", "modalities", "left_out", "weights_sha256"} - set(about)
    if absent:
        raise DataError(f"{path} lacks {', '.join(sorted(absent))}; export again")
    arguments = about["init_args"]
    encoders = (arguments.get("encoders") or {}) if isinstance(arguments, dict) else None
    if not isinstance(encoders, dict) or not all(isinstance(settings, dict) for settings in encoders.values()):
        raise DataError(f"{path}: init_args does not map names to values, or encoders to settings; export again")
    return about


def _front_end(model: RetrievalModule, name: str) -> str | None:
    front_end = model.encoders[name].front_end if isinstance(model, EncodedModule) else None
    return None if front_end is None else front_end.key


def _check_front_ends(model: RetrievalModule, modalities: Mapping[str, Any], folder: Path) -> None:
    """What is fixed in an encoder is not among the weights: it must be the same on this machine."""
    for name, source in modalities.items():
        found = _front_end(model, name)
        if found != source["front_end"]:
            raise DataError(
                f"{folder}: the fixed part of the encoder of {name!r} is {found!r}, and the model was trained with "
                f"{source['front_end']!r}; install or name the same files"
            )


def _check_finite(tensors: Mapping[str, Tensor], origin: Path) -> None:
    broken = [name for name, x in tensors.items() if not x.isfinite().all()]
    if broken:
        raise DataError(
            f"{origin}: {listed(broken, 3)} {'is' if len(broken) == 1 else 'are'} NaN or infinite; {DIVERGED}"
        )


def _check_same(model: RetrievalModule, again: RetrievalModule, batch: Batch, origin: Path) -> None:
    with torch.inference_mode():
        before, after = model.embed(batch), again.embed(batch)
    _check_finite({f"the embedding of {name}": x for name, x in before.items()}, origin)
    differing = [name for name, x in before.items() if not torch.equal(x, after[name])]
    if differing:
        raise RuntimeError(f"the exported model embeds {', '.join(differing)} otherwise than the checkpoint's model")


# Which parts `embed` reads -------------------------------------------------------------------------------------------


class _Reads(TorchDispatchMode):
    """Keeps the identities of all tensors that an operation is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen |= {id(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        return func(*args, **(kwargs or {}))


def _parts_read(model: RetrievalModule, batch: Batch) -> set[str]:
    with torch.no_grad(), _Reads() as reads:
        model.embed(batch)
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {_part(name) for name, x in named if id(x) in reads.seen}


def _part(name: str) -> str:
    return name.partition(".")[0]


def _example_batch(model: RetrievalModule) -> dict[str, Any]:
    """One item of noise in every modality; which tensors are read does not depend on what an entry holds."""
    batch: dict[str, Any] = {"masks": {}}
    for name, source in sources(model).items():
        batch[name], mask = tensors_of(model, name, [_example(source)]).rows(torch.tensor([0]))
        if mask is not None:
            batch["masks"][name] = mask
    return batch


def _example(source: Mapping[str, Any]) -> str | np.ndarray:
    draw = np.random.default_rng(0)
    if source["kind"] == "text":
        return "a text like any other"
    if source["kind"] == "image":
        return draw.integers(0, 256, (96, 64, 3), dtype=np.uint8)
    shape = {"sound": (source["rate"],), "sequence": (8, *source["shape"]), "vector": tuple(source["shape"])}
    return draw.standard_normal(shape[source["kind"]], dtype=np.float32)
