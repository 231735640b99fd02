"""What a data set declares of itself: its folder and files, how many items it has, where it is, its terms.

The declarations are the YAML files of `datamodules/datasets/`. `python -m datamodules list`, `check`, `get` and
`extract`, the tables and every message about missing files read them, and need no torch for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import datamodules
from datamodules.errors import DataMissing, FileMissing
from datamodules.files.download import SourceFile, fetch
from datamodules.files.layouts import LAYOUTS
from datamodules.files.sources import data_root, root_is_named, sha256_of

EXTRACTED = (("*.safetensors",),)
# What `features` of a declaration says -> the forms of features that are known, and how `content` names them.
FEATURES = {
    "extracted": (EXTRACTED, ", or features: one .safetensors file of `extract`"),
    "any layout": (
        (("*.npz",), *EXTRACTED, *(tuple(layout.files()) for layout in LAYOUTS)),
        ", or features: one .safetensors file of `extract`, one .npz file, or the layout of ACMR, JFSE or DSCMR",
    ),
}


@dataclass(frozen=True)
class Form:
    """One form that a data set's folder may have, read by one data module.

    Args:
        class_path: name of the data module in `datamodules`.
        variants: sets of paths below the folder, `*` as in a glob; a folder with all paths of one set has this form.
        init_args: arguments of the data module beside the data root.
        items: split -> number of items in the authors' copy, where they are others than those of the data set; where
            none is stated, the classes are not either.
        lists: split, or "classes" -> file that has one of these items or classes per line, where what is read is other.
        widths: modality -> numbers of each item in the authors' files.
        repeats: items, group by group, that are known to be the same in several splits of the authors' copy.
        caution: what a reader of its results has to know; it stands in the note of every row of a table.
    """

    class_path: str
    variants: Sequence[Sequence[str]]
    init_args: Mapping[str, Any] = field(default_factory=dict)
    items: Mapping[str, int] | None = None
    lists: Mapping[str, str] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    repeats: Sequence[Sequence[str]] = ()
    caution: str = ""

    @property
    def data_module(self) -> type:
        """The class that reads it, whose import needs torch."""
        return getattr(datamodules, self.class_path)


@dataclass(frozen=True)
class Declaration:
    """One data set.

    Args:
        name: what commands, tables and results call it.
        folder: its folder below the data root.
        content: what stands in the folder, file by file.
        url: where to get it.
        licence: its terms.
        citation: whom to cite.
        items: split -> number of items in the authors' copy; a split that is not named here is not stated.
        unit: what an item is, in the plural.
        forms: name -> form.
        classes: how many classes the items have; None where each item matches itself alone.
        files: those that `get` can fetch.
    """

    name: str
    folder: str
    content: str
    url: str
    licence: str
    citation: str
    items: Mapping[str, int]
    unit: str
    forms: Mapping[str, Form]
    classes: int | None = None
    files: Sequence[SourceFile] = ()

    @classmethod
    def read(cls, path: Path) -> Declaration:
        """The declaration in a YAML file that is called as the data set.

        A form has `paths` in the place of `variants`. Where there are `features`, "extracted" or "any layout", the
        folder may hold features as well, in a form called "pairs"; how many items they are of is for whoever made them
        to say.
        """
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
        said["content"] = "; ".join(f"{file}: {what}" for file, what in said["content"].items())
        forms = {name: Form(variants=(tuple(form.pop("paths")),), **form) for name, form in said.pop("forms").items()}
        if "features" in said:
            variants, named = FEATURES[said.pop("features")]
            forms["pairs"] = Form("OwnData", variants, {"dataset": path.stem}, items={})
            said["content"] += named
        files = tuple(SourceFile(**file) for file in said.pop("files", ()))
        return cls(name=path.stem, forms=forms, files=files, **said)

    def open(self, form: str, root: Path, **arguments: Any) -> Any:
        """The data module that reads a form of the data set below a data root, with further arguments of its own."""
        place = {"path": self.folder_below(root)} if self.forms[form].class_path == "OwnData" else {"data_root": root}
        return self.forms[form].data_module(**place, **{**self.forms[form].init_args, **arguments})

    @property
    def layout(self) -> str:
        """What the folder should hold, and under which terms."""
        return f"Expected in {self.folder}/: {self.content}. Its terms: {self.licence}"

    @property
    def source(self) -> str:
        """Where to get it."""
        fetched = f", or with `python -m datamodules get {self.name}`" * bool(self.files)
        return self.url + fetched

    @property
    def check(self) -> str:
        """The command that looks into its files."""
        return f"`python -m datamodules check {self.name}`"

    def folder_below(self, root: Path) -> Path:
        """Where the folder is below a data root, or should be.

        It has the authors' name. Where that is absent, one called as the data set is taken, provided that it holds a
        file of the authors' and not features alone.
        """
        other = root / self.name
        needs = {path for form in self.forms.values() for variant in form.variants for path in variant}
        if not (root / self.folder).is_dir() and any(any(other.glob(path)) for path in needs):
            return other
        return root / self.folder

    def find(self, named: str | Path | None = None, names: Sequence[str] = (), offline: bool = False) -> Path:
        """The data set's folder below the data root, with some of the declared files.

        Where nobody named a root, these are fetched into `data/` first. A file whose sha256 is not the known one is
        used with a warning: whoever reads it checks what it holds.

        Args:
            named: the data root, or None for CSD_DATA or `data/`.
            names: the declared files that are needed; none: the folder alone.
            offline: never fetch.

        Raises:
            FileMissing: a root is named and lacks the folder or a file.
            DataMissing: no root is named, and `data/` lacks the folder, or a file could not be fetched.
        """
        root, is_named = data_root(named), root_is_named(named)
        folder = self.folder_below(root)
        wanted = [file for file in self.files if file.name in names]
        missing = [file for file in wanted if not (folder / file.name).is_file()]
        if missing and not is_named and not offline:
            size = sum(file.size for file in missing) / 1e6
            print(
                f"Fetching {', '.join(file.name for file in missing)} ({size:.1f} MB) of {self.name} into {folder} "
                f"(licence: {self.licence}; cite {self.citation}).",
                flush=True,
            )
            for file in missing:
                fetch(file, folder)
        elif missing or not folder.exists():
            gone = folder / missing[0].name if missing else folder
            hint = "; offline=True forbids fetching it" * (bool(missing) and not is_named)
            if root.name == folder.name or (root / gone.name).is_file():
                hint += f"; {root} looks like the folder {folder.name}/ itself: name the one above it"
            raise (FileMissing if is_named else DataMissing)(f"{gone} is missing{hint}.")
        for file in [file for file in wanted if file not in missing]:
            path = folder / file.name
            if (found := sha256_of(path)) != file.sha256:
                from lightning.pytorch.utilities import rank_zero_warn  # here: it imports torch

                known = f"sha256 {found[:12]}, known {file.sha256[:12]}"
                rank_zero_warn(f"{path} is not the known copy ({known}); used if it fits.")
        return folder

    def lacking(self, folder: Path) -> dict[str, tuple[str, ...]]:
        """Forms that the folder has, whole or in part -> the paths that each lacks, none where it is whole.

        A form is there in part where there is a path that no other form has. Where only paths are there that several
        forms share, the form that lacks the fewest stands for all. Only the presence of paths is looked at.
        """
        needs = {name: {path for variant in form.variants for path in variant} for name, form in self.forms.items()}
        there = {path for paths in needs.values() for path in paths if any(folder.glob(path))}
        nearest = {}
        for name, form in self.forms.items():
            variant = min(form.variants, key=lambda paths: len(set(paths) - there) / len(paths))
            nearest[name] = tuple(path for path in variant if path not in there)
        shared = {name: set().union(*(needs[other] for other in needs if other != name)) for name in needs}
        begun = [name for name in needs if (needs[name] & there) - shared[name]]
        if there and not begun:
            begun = [min(nearest, key=lambda name: len(nearest[name]))]
        return {name: nearest[name] for name in begun}
