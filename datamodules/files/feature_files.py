"""Own features: the arrays of any file, with a row per item or per entry of an item, as items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from lightning.pytorch.utilities import rank_zero_warn

from datamodules.errors import DataError, DataMissing, require_modalities
from datamodules.files.array_files import READERS, read_arrays, read_layout
from datamodules.files.labels import of_items, part_of, standard_name
from datamodules.files.layouts import LAYOUTS, Layout
from datamodules.files.rows import as_matrix, row_names
from datamodules.items import SPLITS, Modality
from datamodules.repeats import first_of_equal

UNPAIRED = "unpaired_"
WHOLE = ("class_names", "class_embedding")  # arrays that are not of items
TABLES = (".csv", ".tsv", ".parquet", ".jsonl", ".json")
ACCEPTED = (
    f"Accepted: a file of arrays ({', '.join(READERS)}), a table or list ({', '.join(TABLES)}), a .safetensors "
    "file of `extract`; a folder of .npy files or with one .npz or .safetensors file; folders: "
    + "; ".join(f"{layout.name} ({', '.join(layout.files())})" for layout in LAYOUTS)
)
Arrays = dict[str, np.ndarray]


@dataclass
class Own:
    """What a file of one's own says, of N items, before labels are numbered and items are split."""

    modalities: dict[str, Modality]
    names: Sequence[str]  # what the items are called
    label: np.ndarray | None = None  # (N, ...) labels in any form
    split: np.ndarray | None = None  # (N,) words
    class_names: np.ndarray | None = None  # of all classes
    class_embedding: np.ndarray | None = None  # (K, E) of all classes
    embedding_of_each: np.ndarray | None = None  # (n, E) for each training item that of its class, as a layout has it
    unpaired: Mapping[str, np.ndarray] = field(default_factory=dict)  # modality -> samples that belong to no item
    notes: list[str] = field(default_factory=list)  # what was understood that the reader should know


def find_source(path: Path) -> Path:
    """The one file that lies at a path, or the folder itself where it has a layout of separate files.

    Raises:
        DataMissing: a folder without features.
        DataError: nothing is there, or another kind of file, several data sets or a part of one.
    """
    if not path.exists():
        raise DataError(f"{path}: does not exist; expected the path of a file or folder.")
    if path.is_dir():
        source = _in_folder(path)
        return path if isinstance(source, Layout) else source
    if path.suffix.lower() not in (*READERS, *TABLES, ".safetensors"):
        raise DataError(f"{path}: is of no known form. {ACCEPTED}.")
    return path


def _in_folder(folder: Path) -> Layout | Path:
    present = {file.name for file in folder.iterdir()}
    lacks = {layout: [name for name in layout.files() if name not in present] for layout in LAYOUTS}
    complete = {layout.label: layout for layout in reversed(LAYOUTS) if not lacks[layout]}
    sources = [*complete.values(), *sorted(folder.glob("*.npz")), *sorted(folder.glob("*.safetensors"))]
    if len(sources) > 1:
        names = ", ".join(source.name for source in sources)
        raise DataError(f"{folder}: holds several data sets ({names}); name one file or keep one layout.")
    if sources:
        return sources[0]
    if any(name.endswith(".npy") for name in present):
        return folder
    if len(present) == 1 and Path(*present).suffix.lower() in READERS:
        return folder / Path(*present)
    tables = sorted(file for file in folder.iterdir() if file.suffix.lower() in TABLES)
    if len(tables) > 1:
        raise DataError(
            f"{folder}: holds several tables ({', '.join(file.name for file in tables)}); name one of them."
        )
    nearest = min(LAYOUTS, key=lambda layout: len(lacks[layout]))
    if len(lacks[nearest]) == len(nearest.files()):
        if tables:
            return tables[0]
        raise DataMissing(f"{folder}: holds no features in a known layout. {ACCEPTED}.")
    raise DataError(f"{folder}: looks like {nearest.name} but lacks {', '.join(lacks[nearest])}; add them. {ACCEPTED}.")


def read_features(source: Path, chosen: Sequence[str] | None = None, split: str | None = None) -> Own:
    """The features in a file of arrays, or in a folder of one array each.

    Arrays are called as their modality. Reserved are those of `OF_ITEMS`, unpaired_<modality>, class_embedding,
    <modality>_id and <modality>_label. x_train and x_test are the rows of x in both parts. Which axis is that of the
    items is decided by the labels, split or ids.

    Args:
        source: as `find_source` gives it.
        chosen: modalities to use; None: all.
        split: the array that says the part of each item; None: that which is called split.

    Raises:
        DataError: a damaged file, arrays whose rows differ, or of which either axis may be that of the items.
    """
    origin, notes = str(source), []
    layout = _in_folder(source) if source.is_dir() else None
    arrays, of_each = read_layout(source, layout) if isinstance(layout, Layout) else (read_arrays(source), None)
    if split is not None:
        if split not in arrays:
            raise DataError(f"{origin}: has no array {split!r} that split names; it has {', '.join(arrays)}.")
        arrays["split"] = arrays.pop(split)
    common, parts = _in_parts(arrays, chosen, origin)
    del arrays  # of which one at a time is joined
    axis = _axis_of_items(list(parts.values()), origin)
    rows = [_oriented(of, axis, f"{origin}, {part} part" if part else origin, notes) for part, of in parts.items()]
    own = _items(_joined(rows, list(parts), origin) if len(rows) > 1 else rows[0], origin, notes)
    own.class_names, own.embedding_of_each = common.pop("class_names", None), of_each
    matrices = {name: as_matrix(x, f"{origin}, {name}") for name, x in common.items()}
    own.class_embedding = matrices.pop("class_embedding", None)
    own.unpaired = {name.removeprefix(UNPAIRED): x for name, x in matrices.items()}
    return own


def _in_parts(arrays: Arrays, chosen: Sequence[str] | None, origin: str) -> tuple[Arrays, dict[str, Arrays]]:
    """Arrays of the data set as a whole, and part -> name -> array of its items; part "" where none is kept apart."""
    named = {name: part_of(name) for name in arrays}
    both = set.intersection(*({base for base, part in named.values() if part == p} for p in ("train", "test")))
    if not any(named[name][0] in both and x.ndim == 2 and 1 not in x.shape for name, x in arrays.items()):
        both = set()  # lists of numbers in two parts are no features
    common, parts = {}, {part: {} for part in (SPLITS if both else ("",))}
    features = {}  # their names, each once, in order
    for name, array in arrays.items():
        base, part = named[name] if named[name][0] in both else (standard_name(name), None)
        if base.startswith(UNPAIRED) or base in WHOLE:
            common[base] = array
            continue
        if not of_items(base):
            features[base] = None
        if chosen is None or of_items(base) or base in chosen:
            if both and part is None:
                raise DataError(
                    f"{origin}: {base} is not divided into training and test, as {min(both)} is; divide it or remove "
                    "it."
                )
            parts[part or ""][base] = array
    require_modalities(chosen or (), features, origin)
    return common, {part: group for part, group in parts.items() if group}


def _axis_of_items(parts: Sequence[Arrays], origin: str) -> int:
    """The axis of the items in a matrix of labels, which has one for the classes too; of all parts the same."""
    labelled = [(arrays["label"], arrays) for arrays in parts if "label" in arrays and arrays["label"].ndim == 2]
    for label, arrays in labelled:
        if label.shape[0] != label.shape[1]:
            shapes = [x.shape for name, x in arrays.items() if not of_items(name)]
            return int(np.argmax([sum(count in shape for shape in shapes) for count in label.shape]))
    if any((label != label.T).any() for label, _ in labelled):
        raise DataError(
            f"{origin}: the label matrix has as many classes as items, so that its rows may be either; give a class "
            "number or name per item, of shape (N,)."
        )
    return 0


def _oriented(arrays: Arrays, axis: int, origin: str, notes: list[str]) -> Arrays:
    """The arrays with a row per item, or per entry of the modality; labels too, where they are vectors in one row."""
    items = {name: x.reshape(-1) if x.ndim == 2 and 1 in x.shape else x for name, x in arrays.items() if of_items(name)}
    matrices = {name: as_matrix(x, f"{origin}, {name}") for name, x in arrays.items() if not of_items(name)}
    if not matrices:
        raise DataError(f"{origin}: holds {', '.join(arrays) or 'no array'}; expected two modalities or more.")
    counts = {name: len(x) for name, x in items.items() if x.ndim == 1}
    if "label" in items and items["label"].ndim == 2:
        items["label"] = items["label"].T if axis else items["label"]
        counts["label"] = len(items["label"])
    turned, square = {}, []
    by_ids = any(key.endswith(("_item", "_id")) for key in counts)
    for name, x in matrices.items():
        own = {key: counts[key] for key in (f"{name}_item", f"{name}_id") if key in counts} or counts
        if own is counts and by_ids and "id" not in counts:  # its ids are the numbers of its rows
            turned[name] = False
            continue
        reference, rows = next(iter(own.items())) if own else _reference(matrices, origin)
        allowed = set(own.values()) or {rows}
        if allowed.isdisjoint(x.shape):
            raise DataError(
                f"{origin}: {name} has {x.shape[0]} rows but {reference} has {rows}; row i of both must be the same "
                f"item: leave others out with modalities; samples without a partner go into {UNPAIRED}{name}."
            )
        if own and x.shape[0] == x.shape[1]:
            square.append(name)
        else:
            turned[name] = x.shape[0] not in allowed
    if square and len(set(turned.values())) != 1:
        raise DataError(
            f"{origin}: {square[0]} has as many rows as columns, {matrices[square[0]].shape[0]}, so that either may be "
            "the items, and the other modalities do not tell; leave one item out, or add a column of zeros."
        )
    turned |= {name: next(iter(turned.values())) for name in square}
    if any(turned.values()):
        notes.append(f"{', '.join(name for name in matrices if turned[name])} transposed: items stood in columns")
    return {name: np.ascontiguousarray(x.T) if turned[name] else x for name, x in matrices.items()} | items


def _reference(matrices: Arrays, origin: str) -> tuple[str, int]:
    """The first modality and its rows, where nothing but the features says how many items there are."""
    rows, columns = ({x.shape[axis] for x in matrices.values()} for axis in (0, 1))
    if len(rows) > 1 and len(columns) == 1:
        shapes = ", ".join(f"{name} {x.shape}" for name, x in matrices.items())
        raise DataError(
            f"{origin}: rows differ and columns agree ({shapes}); expected a row per item: transpose the arrays, or "
            "add a label per item, by which they are turned."
        )
    return next((name, len(x)) for name, x in matrices.items())


def _joined(groups: Sequence[Arrays], parts: Sequence[str], origin: str) -> Arrays:
    """The rows of the parts, one below the other, with the part of each."""
    for part, group in zip(parts, groups, strict=True):
        if set(group) != set(groups[0]):
            raise DataError(f"{origin}: {part} has {', '.join(group)} but {parts[0]} has {', '.join(groups[0])}.")
    sizes = [len(next(x for name, x in group.items() if not of_items(name))) for group in groups]
    one = {}
    for name in list(groups[0]):
        arrays = [group.pop(name) for group in groups]
        if len({(x.shape[1:], x.dtype.kind in "SU") for x in arrays}) > 1:
            described = ", ".join(f"{x.dtype} of shape {x.shape} in {p}" for p, x in zip(parts, arrays, strict=True))
            raise DataError(f"{origin}: {name} is {described}; only the number of rows may differ.")
        one[name] = np.concatenate(arrays) if of_items(name) else _below(arrays)
    one["split"] = np.repeat(parts, sizes)
    return one


def _below(arrays: list[np.ndarray]) -> np.ndarray:
    """One matrix below the other; the memory of the first is grown in place, for it may be gigabytes."""
    first, rows = np.require(arrays.pop(0), requirements="O"), sum(map(len, arrays))
    start = len(first)
    first.resize((start + rows, first.shape[1]), refcheck=False)
    for x in arrays:
        first[start : start + len(x)] = x
        start += len(x)
    return first


def _items(arrays: Arrays, origin: str, notes: list[str]) -> Own:
    """Entries with the items that they belong to, where ids say so; else a row of every modality per item."""
    features = {name: x for name, x in arrays.items() if not of_items(name)}
    ids = {name: next((arrays[k] for k in (f"{name}_item", f"{name}_id") if k in arrays), None) for name in features}
    shared = arrays.get("id")
    if all(x is None for x in ids.values()) and (shared is None or len(np.unique(shared)) == len(shared)):
        first, count = next((name, len(x)) for name, x in features.items())
        for key in ("label", "split"):
            if key in arrays and len(arrays[key]) != count:
                rows = f"{key} has {len(arrays[key])} rows but {first} has {count}"
                raise DataError(f"{origin}: {rows}; row i of both must be the same item.")
        names = row_names(count) if shared is None else [str(x) for x in shared.tolist()]
        modalities = {name: Modality(x) for name, x in features.items()}
        return Own(modalities, names, arrays.get("label"), arrays.get("split"), notes=notes)
    for name, x in features.items():
        if ids[name] is None:
            ids[name] = shared if shared is not None and len(shared) == len(x) else np.arange(len(x))
    numbered = [name for name, x in ids.items() if x.dtype.kind not in "SU"]
    if 0 < len(numbered) < len(ids):
        lacking = numbered[0]
        raise DataError(f"{origin}: ids are texts for some modalities and numbers for {lacking}; add {lacking}_id.")
    codes, known = pd.factorize(np.concatenate(list(ids.values())))
    owners = dict(zip(ids, np.split(codes, np.cumsum([len(x) for x in ids.values()])[:-1]), strict=True))
    own = Own({name: entries_of(x, owners[name], name, notes) for name, x in features.items()}, [*map(str, known)])
    own.notes = notes
    by_rows = {len(owner): owner for owner in (np.arange(len(known)), *reversed(owners.values()))}
    for key in ("label", "split"):
        of_modality = [name for name in features if key == "label" and f"{name}_label" in arrays]
        if key in arrays:
            values, owner = arrays[key], by_rows.get(len(arrays[key]))
        elif of_modality:
            values, owner = arrays[f"{of_modality[0]}_label"], owners[of_modality[0]]
        else:
            continue
        if owner is None:
            count = len(own.names)
            raise DataError(f"{origin}: {key} has {len(values)} rows; expected one for each of {count} items.")
        setattr(own, key, per_item(values, owner, key, own.names, origin))
    return own


def entries_of(rows: np.ndarray, owner: np.ndarray, name: str, notes: list[str]) -> Modality:
    """Entries in the order of their items; those that are equal within an item count once."""
    order = np.argsort(owner, kind="stable")
    first = first_of_equal(rows, order, owner)
    kept = order[first == order]
    if len(kept) < len(order):
        notes.append(f"{len(order) - len(kept):,} repeated rows of {name} count once")
    plain = len(kept) == len(rows) and (np.diff(owner) > 0).all()
    return Modality(rows if plain else rows[kept], owner[kept])


def per_item(values: np.ndarray, owner: np.ndarray, what: str, names: Sequence[str], origin: str) -> np.ndarray:
    """The value of each item, of which every entry says the same; a DataError where some differ or an item has none."""
    items, first = np.unique(owner, return_index=True)
    if len(items) < len(names):
        lacking = np.setdiff1d(np.arange(len(names)), items)
        raise DataError(f"{origin}: {len(lacking)} item(s) have no {what}, first {names[lacking[0]]}; add it.")
    differing = np.flatnonzero((values != values[first[owner]]).reshape(len(values), -1).any(axis=1))
    if differing.size:
        one, other = values[first[owner[differing[0]]]], values[differing[0]]
        raise DataError(f"{origin}: item {names[owner[differing[0]]]} has {what} {one} and {other}; expected one.")
    return values[first]


def class_embedding_of(rows: np.ndarray, label: np.ndarray, classes: int, origin: str) -> np.ndarray | None:
    """(C, E) one embedding per class, of one per training item; None, with a warning, where a class has none.

    Args:
        rows: (n, E); those of one class must be the same.
        label: (n,) or (n, C) of the training items.
        classes: C.
        origin: for messages.
    """
    if len(rows) != len(label):
        raise DataError(f"{origin}: has {len(rows)} rows but the training labels have {len(label)}.")
    present, first = np.unique(label, return_index=True)
    if label.ndim == 2 or len(present) < classes:
        several = "items have several classes" if label.ndim == 2 else f"covers {len(present)} of {classes} classes"
        rank_zero_warn(f"{origin}: {several}, so it gives no class embedding.")
        return None
    bad = np.flatnonzero(~np.isclose(rows, rows[first][label]).all(axis=1))
    if bad.size:
        raise DataError(
            f"{origin}: row {bad[0]} differs from an earlier row of the same class; expected one embedding per class."
        )
    return rows[first]
