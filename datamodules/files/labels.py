"""Class labels and splits in the forms in which files hold them, and what files call them."""

import re
from collections.abc import Sequence

import numpy as np

from datamodules.errors import DataError
from datamodules.items import SPLITS

# The words of files -> our splits.
WORDS = {"train": ("train", "tr"), "validation": ("validation", "valid", "val", "dev"), "test": ("test", "te")}
PARTS = {word: part for part, words in WORDS.items() for word in words}

# What files call the labels.
LABELS = ("label", "labels", "y", "gt", "truth", "truelabel")
_WORDS = "|".join(PARTS)
_PART = re.compile(rf"(?:({_WORDS})[_./-])?(.+?)(?:[_./-]({_WORDS}))?", re.IGNORECASE)
OF_ITEMS = ("label", "split", "id", "class_names")


def part_of(name: str) -> tuple[str, str | None]:
    """What an array is called without the part that its name ends or begins with, and that part: gt_train is label."""
    before, base, after = _PART.fullmatch(name).groups()
    part = before or after
    return standard_name(base), PARTS[part.lower()] if part and not (before and after) else None


def standard_name(name: str) -> str:
    """One name for what files name differently: "label" for y and gt, "image_id" for the id/image of `csd predict`."""
    kind, slash, modality = name.partition("/")
    if slash and kind in ("id", "item", "label", "split"):
        return f"{modality}_{kind}"
    return "label" if name.lower() in LABELS else name


def of_items(name: str) -> bool:
    """Whether an array describes the items, and is no features."""
    base = part_of(name)[0]
    return base in OF_ITEMS or base.endswith(("_id", "_item", "_label", "_split"))


def text_list(array: np.ndarray, subject: str) -> np.ndarray:
    """(n,) texts, decoded where they are bytes; a DataError where it is anything else."""
    if array.ndim != 1 or array.dtype.kind not in "SU":
        raise DataError(f"{subject}: holds {array.dtype} of shape {array.shape}; expected a list of texts.")
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def split_of(split: np.ndarray, subject: str) -> np.ndarray:
    """(N,) "train", "validation" or "test", of the words in a file, whatever their capitals.

    Raises:
        DataError: numbers, an unknown word, no test items, or test items alone.
    """
    if split.ndim == 1 and split.dtype.kind in "biuf":
        raise DataError(
            f"{subject}: holds {split.dtype}; expected train, validation or test as the text of each item, for "
            "instance by np.where(split == 1, 'test', 'train')."
        )
    words, which, counts = np.unique(text_list(split, subject), return_inverse=True, return_counts=True)
    known = {**PARTS, "restval": "train"}  # the rest of the validation part of COCO, which everyone trains on
    unknown = [word for word in words.tolist() if word.lower() not in known]
    if unknown:
        raise DataError(f"{subject}: {unknown[0]!r} is unknown; each item is one of {', '.join(SPLITS)}.")
    parts = np.array([known[word.lower()] for word in words.tolist()])
    if "test" not in parts or (parts == "test").all():
        counted = ", ".join(f"{count} {word}" for word, count in zip(words, counts, strict=True)) or "no item"
        raise DataError(
            f"{subject}: holds {counted}; expected items of test and others, of train or validation. Mark some, or "
            "set split to random: test items are then drawn."
        )
    return parts[which]


def class_labels(
    raw: np.ndarray, origin: str, names: np.ndarray | None = None, known: int | None = None
) -> tuple[np.ndarray, tuple[str, ...], np.ndarray | None]:
    """Labels 0..C-1 of the C classes that have items, or their Boolean (N, C) matrix, from any form.

    Args:
        raw: (N,) or (N, 1) whole numbers, with whatever gaps, or class names; or (N, K) zeros and ones.
        origin: for messages.
        names: (K,) names of all classes, where the data have them: of 0..K-1 or 1..K, else of the numbers in order.
        known: K, where the classes are counted without names.

    Returns:
        The labels, the names of the C classes, and their places among the K where there are K.

    Raises:
        DataError: anything else.
    """
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    texts, numbers = raw.dtype.kind in "SU", raw.dtype.kind in "biuf"
    if numbers and raw.ndim == 1:
        numbers = np.isfinite(raw).all() and (raw == np.round(raw)).all()
    if raw.ndim not in (1, 2) or 0 in raw.shape or not (texts or numbers):
        raise DataError(
            f"{origin}: labels are {raw.dtype} of shape {raw.shape}; expected class numbers or names of shape (N,), or "
            "zeros and ones of shape (N, C). Write them in one of these forms."
        )
    known = known if names is None else len(names)
    if raw.ndim == 2:
        if not np.isin(raw, (0, 1)).all() or known not in (None, raw.shape[1]):
            classes = "one column per class" if known is None else f"one column for each of {known} classes"
            raise DataError(f"{origin}: the matrix of shape {raw.shape} may hold zeros and ones only, {classes}.")
        places = np.flatnonzero(raw.any(axis=0))
        label = raw[:, places].astype(bool)
        found = [f"class {place}" for place in places]
        label = label.argmax(axis=1) if (label.sum(axis=1) == 1).all() else label
    elif texts:
        raw = text_list(raw, origin)
        found = np.unique(raw).tolist() if names is None else names.tolist()
        place_of = {name: place for place, name in enumerate(found)}
        if unknown := sorted(set(raw.tolist()) - set(found)):
            lacking = f"label {unknown[0]!r} is not among class_names"
            raise DataError(f"{origin}: {lacking}; add it there or correct the label.")
        places, label = np.unique([place_of[name] for name in raw.tolist()], return_inverse=True)
        places = None if names is None else places
    else:
        values, label = np.unique(raw.astype(np.int64), return_inverse=True)
        found, places = [f"class {value}" for value in values], _places(values, known, origin)
    return label, tuple(found if names is None else names[places].tolist()), places


def _places(values: np.ndarray, known: int | None, origin: str) -> np.ndarray | None:
    """Where class numbers stand among K known classes."""
    if known is None:
        return None
    low, high = int(values[0]), int(values[-1])
    first = int(low == 1 and high == known)
    if low >= first and high < known + first:
        return values - first
    if len(values) == known:
        return np.arange(known)
    raise DataError(f"{origin}: labels run from {low} to {high}, and there are {known} classes; number them 0..C-1.")


def require_one_kind(label: np.ndarray, split: np.ndarray, origin: str) -> None:
    """Refuse with a DataError class names in one part and numbers in another."""
    if label.ndim != 1 or label.dtype.kind != "U":
        return
    number = np.char.isdecimal(np.char.lstrip(label, "-"))
    for part, other in (("train", "test"), ("test", "train")):
        here, there = split == part, split == other
        if here.any() and there.any() and number[here].all() and not number[there].any():
            raise DataError(
                f"{origin}: label holds numbers in the {part} part ({label[here][0]}) and texts in the {other} part "
                f"({label[there][0]}); expected one form: write the same labels in both."
            )


def require_trained(label: np.ndarray, split: np.ndarray, names: Sequence[str], origin: str) -> None:
    """Refuse with a DataError a split that trains on some classes of the test items and not on others.

    One between classes may be meant.
    """
    tested = np.unique(label[split == "test"])
    untrained_on = np.setdiff1d(tested, label[split != "test"])
    if 0 < untrained_on.size < tested.size:
        raise DataError(
            f"{origin}: the split leaves {untrained_on.size} of {tested.size} test classes without a training item, "
            f"first {names[untrained_on[0]]!r}; move items of them, leave them out, or train on no test class."
        )
