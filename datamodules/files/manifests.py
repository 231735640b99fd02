"""Tables with a row per item, or per entry of an item: texts, paths of images and sounds, or features."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datamodules.errors import DataError, require_modalities
from datamodules.files.feature_files import Own, entries_of, per_item
from datamodules.files.labels import PARTS, standard_name
from datamodules.files.media import IMAGES, SOUNDS, files_of_items
from datamodules.files.rows import decoding, row_names
from datamodules.files.text import broken, read_json, read_lines
from datamodules.items import Modality

NUMBERED = re.compile(r"(.+?)[_.]?(\d+)")
PART = re.compile("|".join(sorted(PARTS, key=len, reverse=True)))
PARALLEL = re.compile(rf"((?:{PART.pattern})(?:[_-][^.]*)?)\.([A-Za-z_-]+?)(?:\.txt)?(?:\.gz)?")


def read_manifest(path: Path, chosen: Sequence[str] | None = None, split: str | None = None) -> Own:
    """The items of a table or list: CSV, TSV, Parquet, JSON lines, Karpathy's JSON, or parallel texts in a folder.

    A column is a modality: paths of images or sounds, from the file's folder, texts, or vectors as lists of numbers;
    image_0, image_1, ... are the numbers of the vectors image, or, where they are texts, several texts. The columns
    label, split and id are reserved. Rows of one id are one item; without ids, rows that name the same file. Parallel
    texts are files such as train.en, train.de.gz and test_2016.en, with an item per line.

    Args:
        path: the file or folder.
        chosen: columns to use as modalities; None: all.
        split: the column that says the part of each row; None: that which is called split.

    Raises:
        DataError: it cannot be read, or entries of one item differ in label or split.
    """
    table = _read_table(path, chosen)
    there = list(map(str, table.columns))
    table = table.rename(columns=lambda name: name if name == split else standard_name(str(name)))
    if split is not None:
        if split not in table:
            raise broken(path, f"has no column {split!r} that split names; it has {', '.join(there)}")
        table["split"] = table.pop(split)
    if not len(table):
        raise broken(path, "has no row")
    notes: list[str] = []
    columns = _columns(table)
    require_modalities(chosen or (), columns, str(path))
    columns = {name: x for name, x in columns.items() if chosen is None or name in chosen}
    kinds = {name: _kind(cells) for name, cells in columns.items()}
    if numbers := [name for name, kind in kinds.items() if kind == "number"]:
        notes.append(f"{', '.join(numbers)} left out: one number per item is no modality")
    owner, names = _owners(table, {n: c for n, c in columns.items() if kinds[n] in ("image", "sound")})
    modalities = {
        name: _modality(name, cells, kinds[name], owner, path, notes)
        for name, cells in columns.items()
        if kinds[name] != "number"
    }
    if len(names) < len(table):
        notes.append(f"{len(table):,} rows are {len(names):,} items")
    own = Own(modalities, names, notes=notes)
    for key in table.columns.intersection(["label", "split"]):
        values = table[key].to_numpy()
        if isinstance(values[0], list | np.ndarray):  # several labels of an item
            cells = [set(map(str, cell)) for cell in values]
            own.class_names = np.array(sorted(set().union(*cells)))
            values = np.array([[name in cell for name in own.class_names] for cell in cells])
        else:
            values = _plain(values, f"{path}, {key}")
        setattr(own, key, per_item(values, owner, key, names, str(path)))
    return own


def parallel_texts(folder: Path) -> dict[str, dict[str, Path]]:
    """Name of a part, as train or test_2016 -> language or other modality -> file of its texts, one per line."""
    found: dict[str, dict[str, Path]] = {}
    for file in sorted(folder.iterdir() if folder.is_dir() else ()):
        if match := PARALLEL.fullmatch(file.name):
            found.setdefault(match[1], {})[match[2]] = file
    return found if any(PARTS[PART.match(part)[0]] == "train" and len(of) > 1 for part, of in found.items()) else {}


def _read_parallel(folder: Path, chosen: Sequence[str] | None) -> pd.DataFrame:
    """Texts of which line i says the same in every file of a part; parts that lack a modality are left out."""
    files = parallel_texts(folder)
    trained = next(list(of) for part, of in files.items() if PARTS[PART.match(part)[0]] == "train")
    require_modalities(chosen or (), trained, str(folder))
    wanted = chosen or trained
    tables = []
    for part, of in files.items():
        if set(wanted) <= set(of):
            lines = {name: read_lines(of[name]) for name in wanted}
            counts = {name: len(texts) for name, texts in lines.items()}
            if len(set(counts.values())) > 1:
                raise broken(folder, f"{part} has {counts} lines; expected line i of every file to be of the same item")
            tables.append(pd.DataFrame(lines | {"split": PARTS[PART.match(part)[0]]}))
    return pd.concat(tables, ignore_index=True)


def _read_table(path: Path, chosen: Sequence[str] | None) -> pd.DataFrame:
    if path.is_dir():
        return _read_parallel(path, chosen)
    form = path.suffix.lower()
    with decoding(path, f"a {form[1:]} table"):
        if form == ".jsonl":
            return pd.DataFrame([json.loads(line) for line in read_lines(path) if line.strip()])
        if form == ".json":
            content = read_json(path)
            entries = content.get("images") if isinstance(content, dict) else content
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                raise broken(path, "holds no list of items; expected one, or Karpathy's {'images': [...]}")
            return pd.DataFrame([_karpathy(e, path) if "sentences" in e else e for e in entries])
        if form == ".parquet":
            return pd.read_parquet(path)
        tabs = {"sep": "\t", "quoting": csv.QUOTE_NONE} if form == ".tsv" else {}
        settings = {"encoding": "utf-8-sig", "keep_default_na": False, **tabs}
        first = pd.read_csv(path, nrows=1, dtype=str, **settings)
        numeric = {n for n in first if NUMBERED.fullmatch(n) and len(first) and _is_number(first[n].iloc[0])}
        return pd.read_csv(path, dtype={n: np.float32 if n in numeric else str for n in first}, **settings)


def _karpathy(entry: dict[str, Any], path: Path) -> dict[str, Any]:
    """An image of Karpathy's JSON as a row; it lies beside the file, in its `filepath` or in another folder there."""
    name = entry["filename"]
    places = [Path(entry.get("filepath", "")), Path(), *(p for p in sorted(path.parent.iterdir()) if p.is_dir())]
    found = next((place / name for place in places if (path.parent / place / name).is_file()), places[0] / name)
    texts = [sentence["raw"].strip() for sentence in entry["sentences"]]
    return {"image": str(found), "text": texts, "split": entry["split"]}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _columns(table: pd.DataFrame) -> dict[str, Any]:
    """Name of a modality -> its cells; of columns that are numbered, a matrix of numbers or a list of texts per row."""
    groups: dict[str, list[str]] = {}
    for name in table.columns.difference(["label", "split", "id"], sort=False):
        numbered = NUMBERED.fullmatch(name)
        groups.setdefault(numbered[1] if numbered else name, []).append(name)
    found: dict[str, Any] = {}
    for base, names in groups.items():
        if len(names) < 2:
            found[names[0]] = table[names[0]].tolist()
        elif all(table[name].dtype.kind in "biuf" for name in names):
            found[base] = table[names].to_numpy(np.float32)
        else:
            found[base] = table[names].to_numpy(object).tolist()
    return found


def _kind(cells: Any) -> str:
    """What the cells of a column are: "vector", "text", "image", "sound" or "number"."""
    if isinstance(cells, np.ndarray):
        return "vector"
    flat = [x for cell in cells[:100] for x in (cell if isinstance(cell, list | np.ndarray) else [cell])]
    flat = [x for x in flat if x is not None and x == x and x != ""]
    if flat and not isinstance(flat[0], str):
        return "vector" if any(isinstance(cell, list | np.ndarray) for cell in cells[:100]) else "number"
    if flat and re.fullmatch(r"\[\s*[-+\d.].*\]", flat[0], re.DOTALL):
        return "vector"
    endings = [Path(text).suffix.lower() if len(text) < 4096 else "" for text in flat]
    for kind, known in (("image", IMAGES), ("sound", SOUNDS)):
        if 2 * sum(ending in known for ending in endings) > len(endings):
            return kind
    return "text"


def _owners(table: pd.DataFrame, files: dict[str, list]) -> tuple[np.ndarray, Sequence[str]]:
    """(rows,) item of each row, and the items' names: by id, else by the files that several rows name."""
    if "id" in table:
        codes, known = pd.factorize(table["id"])
        return codes, [str(x) for x in known]
    counted = {name: len(set(map(str, cells))) for name, cells in files.items()}
    fewest = min(counted, key=counted.get, default=None)
    if fewest is None or counted[fewest] == len(table):
        return np.arange(len(table)), files[fewest] if fewest and files[fewest] else row_names(len(table))
    codes, known = pd.factorize(np.array([str(x) for x in files[fewest]], dtype=object))
    return codes, list(known)


def _modality(name: str, cells: Any, kind: str, owner: np.ndarray, path: Path, notes: list[str]) -> Modality:
    if isinstance(cells, np.ndarray):
        return entries_of(cells, owner, name, notes)
    if kind == "vector":
        with decoding(path, f"vectors in the column {name}"):
            parsed = [json.loads(cell) if isinstance(cell, str) else cell for cell in cells]
            widths = {len(cell) for cell in parsed}
            if len(widths) > 1:
                raise broken(path, f"{name} has vectors of {sorted(widths)[:5]} numbers; expected equally many in each")
            return entries_of(np.array(parsed, dtype=np.float32), owner, name, notes)
    pairs = {}  # each once, in order
    for item, cell in zip(owner.tolist(), cells, strict=True):
        for entry in cell if isinstance(cell, list | np.ndarray) else [cell]:
            if isinstance(entry, str) and entry.strip():
                pairs[item, entry.strip()] = None
    pairs = sorted(pairs, key=lambda pair: pair[0])
    if kind == "text":
        return Modality([text for _, text in pairs], np.array([item for item, _ in pairs], dtype=np.int64))
    return files_of_items(kind, [(item, path.parent / Path(text).expanduser()) for item, text in pairs])


def _plain(values: np.ndarray, subject: str) -> np.ndarray:
    """Labels or splits as an array of whole numbers, or of texts."""
    texts = np.array(["" if x is None or x != x else str(x).strip() for x in values.tolist()])
    empty = np.flatnonzero(texts == "")
    if empty.size:
        raise DataError(f"{subject}: {empty.size} row(s) have no {subject.split()[-1]}, the first is row {empty[0]}.")
    number = np.char.isdecimal(np.char.lstrip(texts, "-"))
    return texts.astype(np.int64) if number.all() else texts
