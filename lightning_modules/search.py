"""Search in a folder of images, texts or sounds by a trained model: ``csd search index`` and ``csd search query``."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from datamodules.errors import DataError
from datamodules.files.sources import user_path
from datamodules.folders import ENDINGS, Content, decode, read_folder, readable
from datamodules.items import Files
from datamodules.retrieval_data import RetrievalData
from lightning_modules.base import RetrievalModule
from lightning_modules.export import any_name_to_stdout, export_identity, load_export, sources, tensors_of
from lightning_modules.export_files import check_writable, save_tensors

FORMAT = "1"
# Entries that pass the fixed part of an encoder together: some load a network each time they are called.
CHUNK = 512
# More than rounding changes a cosine by: all entries this near to the last one are put in order.
ROUNDING = 1e-5
# In larger galleries faiss compares a query with a part of the entries alone.
FLAT_UP_TO = 100_000


@dataclass(frozen=True)
class Hit:
    """An entry that was found: its rank, from 1, its cosine with the query and its name."""

    rank: int
    cosine: float
    name: str


def index_folder(export: Path, folder: Path, modality: str, out: Path | None = None, with_faiss: bool = False) -> int:
    """Embed every entry of a folder and keep the embeddings in one file, which is written whole or not at all.

    A file that cannot be read is named on the error stream and left out, and how many there were is said at the end.

    Args:
        export: folder that `csd export` wrote.
        folder: of images, sounds or texts, or one file of texts, as `datamodules.folders.read_folder` reads them.
        modality: the model's modality that they are of; "image", "text" or "sound" where it has one alone of these.
        out: the file, which is replaced; by default "<name of the folder>.<modality>.index.safetensors" beside the
            folder, where only an index of this modality by this export is replaced.
        with_faiss: whether the file also holds an index of faiss: up to 100,000 entries an exact one; above, they are
            put into 4 sqrt(n) lists, and a query is compared with the entries of a sixteenth of the lists.

    Returns:
        How many entries were indexed; where it is 0 nothing was written.

    Raises:
        DataError: the export is refused, there is nothing of that kind in the folder, or the file cannot be written or
            is another index.
        ValueError: the model has no such modality or does not read raw entries of it, or faiss is not installed.
    """
    if with_faiss:
        _faiss()
    model = _loaded(export)
    modality, content = _indexed(model, modality)
    about = {"format": FORMAT, "modality": modality, "export": export_identity(export)}
    names, entries = read_folder(folder, content, sources(model)[modality]["rate"])
    out = _place(folder, about, out)
    kept, rows = _embed_all(model, modality, names, entries)
    if len(kept) < len(names):
        _say(f"{len(names) - len(kept)} of {len(names)} files cannot be read and are left out")
    if not kept:
        _say(f"nothing of {folder} could be indexed, and nothing is written")
        return 0
    tensors = {"embeddings": rows, "names": _bytes(json.dumps(kept).encode())}
    if with_faiss:
        tensors["faiss"] = _faiss_index(rows)
    _write(out, tensors, about)
    print(f"wrote {out}: {len(kept)} entries of {modality}, {rows.shape[1]} numbers each")
    return len(kept)


def find(
    export: Path, index: Path, content: Content, entry: str | Path, k: int = 10, with_faiss: bool = False
) -> list[Hit]:
    """Those entries of an index whose embeddings have the largest cosines with that of a text, an image or a sound.

    Where the model can hardly tell a text from others, for it does not know its words or its script, this is said on
    the error stream.

    Args:
        export: folder that `csd export` wrote.
        index: file that `index_folder` wrote with this export.
        content: what the query is.
        entry: the text, or the file of the image or sound.
        k: how many; fewer where the gallery is smaller.
        with_faiss: whether to search by the index of faiss that the file holds, instead of among all embeddings.

    Raises:
        DataError: the export, the index or the query's file is refused, or the index is another export's.
        ValueError: the model reads no such content, the text is empty, k is below 1, or faiss is not installed.
    """
    if k < 1:
        raise ValueError(f"--k is {k}; expected at least 1")
    model = _loaded(export)
    modality = _modality(model, content)
    if content == "text" and not str(entry).strip():
        raise ValueError("the query is an empty text")
    names, stored = _read(index, export_identity(export), "faiss" if with_faiss else "embeddings")
    encoder = model.encoders[modality]
    if content == "text" and encoder.unknown([str(entry)])[0]:
        _say(f"the query has {encoder.blind_to}: what is found hardly depends on what they are")
    raw = entry if content == "text" else decode(Path(entry), sources(model)[modality]["rate"])
    search = nearest_by_faiss if with_faiss else nearest
    cosine, row = search(stored, embed(model, modality, [raw])[0], min(k, len(names)))
    found = enumerate(zip(cosine.tolist(), row.tolist(), strict=True), start=1)
    return [Hit(rank, score, names[place]) for rank, (score, place) in found]


def embed(model: RetrievalModule, modality: str, entries: Sequence[Any]) -> Tensor:
    """Embeddings of entries of one modality, (n, D) float32 of unit length, computed as `csd test` computes them.

    Args:
        model: which `load_export` read.
        modality: one that it reads raw entries of.
        entries: texts, or images or sounds as `datamodules.folders.decode` gives them.

    Raises:
        DataError: an embedding is not finite.
    """
    tensors, parts = tensors_of(model, modality, entries), []
    with torch.inference_mode():
        for index in torch.arange(len(entries)).split(RetrievalData.evaluation_batch_size):
            x, mask = tensors.rows(index)
            masks = {} if mask is None else {modality: mask.to(model.device)}
            parts.append(model.embed({modality: x.to(model.device), "masks": masks})[modality].float().cpu())
    rows = F.normalize(torch.cat(parts), dim=1)
    if not rows.isfinite().all():
        raise DataError(f"the model embeds {modality} as NaN or infinite numbers; look at the losses of its training")
    return rows


def nearest(gallery: Tensor, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest cosines, descending, and their rows; of equal cosines those of the first rows.

    Args:
        gallery: (n, D), of unit length.
        query: (D,), of unit length.
        k: how many; all where there are fewer.
    """
    scored = gallery @ query
    row = (scored >= scored.topk(min(k, len(scored))).values[-1] - ROUNDING).nonzero()[:, 0]
    return _in_order(gallery[row], row, query, k)


def nearest_by_faiss(index: Tensor, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The same from an index of faiss, as its bytes; fewer than k where the lists compared hold fewer entries."""
    faiss, asked = _faiss(), query[None].numpy()
    held = faiss.deserialize_index(index.numpy())
    if isinstance(held, faiss.IndexIVF):
        held.make_direct_map()  # from rows to their vectors
    last = held.search(asked, k)[0][0, -1]  # far below any cosine where fewer than k are compared
    row = np.sort(held.range_search(asked, last - ROUNDING)[2])  # with all that are as near as the last
    return _in_order(torch.from_numpy(held.reconstruct_batch(row)), torch.from_numpy(row), query, k)


def _in_order(vectors: Tensor, row: Tensor, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first k of some ascending rows; each vector alone, as a matrix product may round equal ones differently."""
    cosine, place = (vectors * query).sum(dim=1).sort(descending=True, stable=True)
    return cosine[:k], row[place[:k]]


def command(words: Sequence[str]) -> int:
    """Run ``csd search`` with the words after it; the exit status is returned."""
    given = _parser().parse_args(words)
    any_name_to_stdout()
    if given.command == "index":
        return int(not index_folder(given.export, given.folder, given.modality, given.out, given.faiss))
    content, entry = next((name, getattr(given, name)) for name in ENDINGS if getattr(given, name) is not None)
    hits = find(given.export, given.index, content, entry, given.k, given.faiss)
    if given.json:
        print(json.dumps([asdict(hit) for hit in hits]))
    else:
        print("\n".join(f"{hit.rank:>4}  {hit.cosine:7.4f}  {_in_a_line(hit.name)}" for hit in hits))
    return 0


def _in_a_line(name: str) -> str:
    """The name with line breaks, and whatever else a terminal would act on, in the form of escapes."""
    acted_on = ("Cc", "Zl", "Zp")
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in acted_on else c for c in name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="csd search",
        description="Search in a folder of images, texts or sounds by a trained model.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("index", help="embed a folder", allow_abbrev=False)
    make.add_argument("export", type=user_path, help="folder that csd export wrote")
    make.add_argument("folder", type=user_path, help="of images, sounds or texts; or one .txt or .csv file of texts")
    make.add_argument("--modality", required=True, help="the model's modality that they are of, e.g. image")
    make.add_argument("--out", type=user_path, help="the index; by default FOLDER.MODALITY.index.safetensors")
    make.add_argument("--faiss", action="store_true", help="add an index of faiss; above 100,000 entries it is inexact")
    ask = commands.add_parser("query", help="find the nearest entries", allow_abbrev=False)
    ask.add_argument("export", type=user_path, help="folder that csd export wrote")
    ask.add_argument("index", type=user_path, help="file that csd search index wrote")
    entry = ask.add_mutually_exclusive_group(required=True)
    entry.add_argument("text", nargs="?", help="the query: a text,")
    entry.add_argument("--image", type=user_path, metavar="FILE", help="or an image,")
    entry.add_argument("--sound", type=user_path, metavar="FILE", help="or a sound")
    ask.add_argument("--k", type=int, default=10, help="how many entries, by default 10")
    ask.add_argument("--faiss", action="store_true", help="search by the index of faiss")
    ask.add_argument("--json", action="store_true", help="print a JSON list")
    return parser


# What the model reads ------------------------------------------------------------------------------------------------


def _loaded(export: Path) -> RetrievalModule:
    return load_export(export).to("cuda" if torch.cuda.is_available() else "cpu")


def _contents(model: RetrievalModule) -> dict[str, Content]:
    """Modality -> what its entries are, for those that the model reads raw."""
    found: dict[str, Content] = {}
    for name, source in sources(model).items():
        if source["kind"] in ("text", "image", "sound"):
            found[name] = source["kind"]
    if not found:
        raise ValueError(
            f"this {type(model).__name__} reads features ({', '.join(model.modalities)}), and search needs raw "
            "entries: export a model that was trained with encoders of texts, images or sounds"
        )
    return found


def _indexed(model: RetrievalModule, word: str) -> tuple[str, Content]:
    """The modality that a word names, by its own name or as the only one of such entries, and what its entries are."""
    contents = _contents(model)
    if word in contents:
        return word, contents[word]
    if word in model.modalities:
        kind = sources(model)[word]["kind"]
        raise ValueError(f"{word} is a {kind}; search reads texts, images and sounds, here {', '.join(contents)}")
    if word in contents.values():
        return _modality(model, word), word
    raise ValueError(f"the model has no modality {word!r}; it has {', '.join(model.modalities)}")


def _modality(model: RetrievalModule, content: Content) -> str:
    contents = _contents(model)
    found = [name for name, held in contents.items() if held == content]
    if len(found) != 1:
        read = ", ".join(f"{name} ({held})" for name, held in contents.items())
        raise ValueError(f"{content} is what {len(found)} of the model's modalities are, and one is needed: {read}")
    return found[0]


# The index -----------------------------------------------------------------------------------------------------------


def _place(folder: Path, about: Mapping[str, str], out: Path | None) -> Path:
    """The file of an index, before its entries are embedded."""
    if out is None:
        folder = folder.resolve()
        out = folder.with_name(f"{folder.name}.{about['modality']}.index.safetensors")
        if out.exists() and _about(out) != about:
            raise DataError(
                f"{out} exists and is no index of {about['modality']} by this export; name a file with --out, or this "
                "one to replace it"
            )
    if out.is_dir():
        raise DataError(f"{out} is a folder; name a file with --out")
    check_writable(out)
    return out


def _about(path: Path) -> dict[str, str]:
    """What a file says of itself, if it is one of tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def _embed_all(
    model: RetrievalModule, modality: str, names: list[str], entries: list[str] | Files
) -> tuple[list[str], Tensor]:
    """Names and embeddings of the entries that can be read; the others are named on the error stream."""
    kept, parts, unknown, encoder = [], [], 0, model.encoders[modality]
    with tqdm(total=len(names), desc=modality, unit=" entries", disable=None) as bar:
        for start in range(0, len(names), CHUNK):
            rows = list(range(start, min(start + CHUNK, len(names))))
            passed = len(rows)
            if isinstance(entries, Files):
                rows, faults = readable(entries, rows)
                for fault in faults:
                    bar.write(f"csd: {fault}", file=sys.stderr)
                chunk = Files(tuple(entries.paths[row] for row in rows), entries.decode)
            else:
                chunk = [entries[row] for row in rows]
            if rows:
                parts.append(embed(model, modality, chunk))
                kept += [names[row] for row in rows]
                unknown += sum(encoder.unknown(chunk))
            bar.update(passed)
    if unknown:
        _say(f"{unknown} of {len(kept)} texts have {encoder.blind_to}, and the model can hardly tell them apart")
    return kept, torch.cat(parts) if parts else torch.empty(0, 0)


def _write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(partial, tensors, about)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be written ({error}); free space or name another file with --out") from error
    finally:
        partial.unlink(missing_ok=True)


def _read(path: Path, identity: str, wanted: str) -> tuple[list[str], Tensor]:
    """Names, and one tensor, of an index that the export of this identity made."""
    try:
        with safe_open(path, framework="pt") as file:
            about, there = file.metadata() or {}, set(file.keys())
            held = {name: file.get_tensor(name) for name in there & {"names", wanted}}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({error}); name a file that csd search index wrote") from error
    if about.get("format") != FORMAT or "names" not in held:
        raise DataError(f"{path} is no index that this version reads; name a file that csd search index wrote")
    if about.get("export") != identity:
        raise DataError(
            f"{path} was made with another export, which embeds otherwise; index the folder again, with --out to "
            "replace this file"
        )
    if wanted not in held:
        raise DataError(f"{path} holds no index of faiss; index the folder again with --faiss")
    return json.loads(bytes(held["names"].numpy())), held[wanted]


def _bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ValueError("--faiss takes the package faiss-cpu: install the extra csd-retrieval[search]") from error
    return faiss


def _faiss_index(rows: Tensor) -> Tensor:
    """An index of inner products over rows (n, D), as its bytes."""
    faiss, (count, dim) = _faiss(), rows.shape
    made = faiss.IndexFlatIP(dim)
    if count > FLAT_UP_TO:
        lists = round(4 * math.sqrt(count))
        made = faiss.IndexIVFFlat(made, dim, lists, faiss.METRIC_INNER_PRODUCT)
        made.nprobe = max(lists // 16, 1)
        made.train(rows.numpy())
    made.add(rows.numpy())
    return torch.from_numpy(faiss.serialize_index(made))


def _say(message: str) -> None:
    print(f"csd: {message}", file=sys.stderr)
