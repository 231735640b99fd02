"""Search in a folder of images, texts or sounds by a trained model, and the command ``csd search``."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from datamodules.errors import DataError
from datamodules.features.precompute import rows_of
from datamodules.files.media import faults
from datamodules.files.rows import decoding
from datamodules.files.sources import user_path, written_whole
from datamodules.items import Files, Modality
from lightning_modules.commands import FURTHER_COMMANDS
from lightning_modules.encoded import EncodedModule
from lightning_modules.serving.export import export_identity, load_export
from lightning_modules.serving.folders import ENDINGS, Content, decode, printable, read_folder

FORMAT = "1"
# Entries that pass an encoder together: a frozen one may load its network each time it is called.
CHUNK = 512


class Hit(NamedTuple):
    """An entry that was found: its rank, from 1, its cosine with the query and its name."""

    rank: int
    cosine: float
    name: str


def index_folder(export: Path, folder: Path, modality: str, out: Path | None = None) -> None:
    """Embed every entry of a folder and keep the embeddings in one file, which is written whole or not at all.

    A file that cannot be read is named on the error stream and left out.

    Args:
        export: folder that `csd export` wrote.
        folder: of images, sounds or texts, or one file of texts; see `folders.read_folder`.
        modality: the model's modality that they are of.
        out: the file, which is replaced; by default "<folder>.<modality>.index.safetensors" beside the folder.

    Raises:
        DataError: the export cannot be read, or there is nothing of that kind in the folder that can.
        ValueError: the model has no such modality, or does not read raw entries of it.
        OSError: the file cannot be written.
    """
    model, contents = _load(export)
    if modality not in contents:
        raise ValueError(f"the model has no texts, images or sounds called {modality!r}; it has {contents}")
    about = {"format": FORMAT, "modality": modality, "export": export_identity(export)}
    names, entries = read_folder(folder, contents[modality], model.sources[modality]["rate"])
    out = out or folder.resolve().with_name(f"{folder.resolve().name}.{modality}.index.safetensors")
    with written_whole(out) as file:  # opened before the work is done that it is for
        kept, rows = _embed_all(model, modality, names, entries)
        if not kept:
            raise DataError(f"none of the {len(names)} files of {printable(folder)} can be read; nothing is written")
        stored = torch.frombuffer(bytearray(json.dumps(kept).encode()), dtype=torch.uint8)
        file.write(save({"embeddings": rows, "names": stored}, about))
    if len(kept) < len(names):
        _say(f"{len(names) - len(kept)} of {len(names)} files cannot be read and are left out")
    print(f"wrote {printable(out)}: {len(kept)} entries of {modality}, {rows.shape[1]} numbers each")


def find(export: Path, index: Path, query: Mapping[Content, str | Path], k: int = 10) -> list[Hit]:
    """Those entries of an index whose embeddings have the largest cosines with that of a text, an image or a sound.

    Of several, of different modalities, it is the cosine with the sum of their embeddings, or with their product where
    the model ranks joint queries by that. That the model does not know the words or script of a text is said on the
    error stream.

    Args:
        export: folder that `csd export` wrote.
        index: file that `index_folder` wrote with this export.
        query: what it is, one or more -> the text, or the file of the image or sound.
        k: how many; fewer where the gallery is smaller.

    Raises:
        DataError: the export, the index or the query's file cannot be read, or the index is another export's.
        ValueError: the model reads no such content, or ranks joint queries by a volume; the text is empty, or k is
            below 1.
    """
    for entry in query.values():
        if k < 1 or not str(entry).strip():
            raise ValueError(
                f"--k is {k} and the query {str(entry)!r}; expected at least 1, and a text that is not empty"
            )
    model, contents = _load(export)
    if len(query) > 1 and model.joint_score == "volume":
        raise ValueError("the model ranks joint queries by a volume, and search by cosines; query by one entry")
    names, gallery = read_index(index, export_identity(export))
    parts = torch.stack([_embed_query(model, contents, content, entry) for content, entry in query.items()])
    joined = parts.prod(dim=0) if model.joint_score == "multilinear" else parts.sum(dim=0)
    found = zip(*nearest(gallery, joined if len(parts) == 1 else F.normalize(joined, dim=0), k), strict=True)
    return [Hit(rank, float(cosine), names[row]) for rank, (cosine, row) in enumerate(found, start=1)]


def _embed_query(model: EncodedModule, contents: Mapping[str, Content], content: Content, entry: str | Path) -> Tensor:
    fitting = [name for name, held in contents.items() if held == content]
    if len(fitting) != 1:
        raise ValueError(f"the query is of {content}, and so must be one modality of the model; it has {contents}")
    encoder = model.encoders[fitting[0]]
    if content == "text" and encoder.unknown([str(entry)])[0]:
        _say(f"the query has {encoder.blind_to}: what is found hardly depends on what they are")
    raw = entry if content == "text" else decode(Path(entry), model.sources[fitting[0]]["rate"])
    return embed(model, fitting[0], [raw])[0]


def embed(model: EncodedModule, modality: str, entries: Sequence[Any]) -> Tensor:
    """Embeddings of entries of one modality, (n, D) float32 of unit length, computed as `csd test` computes them.

    The entries are texts, or images or sounds as `folders.decode` gives them. A DataError where one is not finite.
    """
    front_end = model.encoders[modality].front_end
    rows = entries if front_end is None else front_end(entries, model.sources[modality]["rate"])
    x, mask = Modality(rows_of(rows)).rows(torch.arange(len(entries)))
    masks = {} if mask is None else {modality: mask.to(model.device)}
    with torch.inference_mode():
        found = F.normalize(model.embed({modality: x.to(model.device), "masks": masks})[modality].float().cpu(), dim=1)
    if not found.isfinite().all():
        raise DataError(f"the model embeds {modality} as NaN or infinite numbers; look at the losses of its training")
    return found


def nearest(gallery: Tensor, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest cosines of a gallery (n, D) with a query (D,), both of unit length, descending, and their rows.

    Of equal cosines those of the first rows; all where there are fewer than k.
    """
    # Each row by itself, for a matrix product may round equal rows differently; in blocks, to bound the memory.
    cosine = torch.cat([(rows * query).sum(dim=1) for rows in gallery.split(2**16)])
    cosine, row = cosine.sort(descending=True, stable=True)
    return cosine[:k], row[:k]


def _load(export: Path) -> tuple[EncodedModule, dict[str, Content]]:
    """The model, and what its modalities hold that it reads raw."""
    model = load_export(export).to("cuda" if torch.cuda.is_available() else "cpu")
    read = model.sources.items() if isinstance(model, EncodedModule) else ()
    if contents := {name: s["kind"] for name, s in read if s["kind"] in ("text", "image", "sound")}:
        return model, contents
    raise ValueError(
        f"this {type(model).__name__} reads features ({', '.join(model.modalities)}), and search needs raw entries: "
        "export a model that was trained with encoders of texts, images or sounds"
    )


def _embed_all(model: EncodedModule, modality: str, names: list[str], entries: Any) -> tuple[list[str], Tensor]:
    """Names and embeddings of the entries that can be read; the others are named on the error stream."""
    kept, parts, unknown, encoder = [], [], 0, model.encoders[modality]
    with tqdm(total=len(names), desc=modality, unit=" entries", disable=None) as bar:
        for chunk in torch.arange(len(names)).split(CHUNK):
            wrong = faults(entries, chunk.tolist()) if isinstance(entries, Files) else {}
            for fault in wrong.values():
                bar.write(f"csd: {fault}", file=sys.stderr)
            if rows := [row for row in chunk.tolist() if row not in wrong]:
                read = [entries[row] for row in rows]
                parts.append(embed(model, modality, read))
                kept += [names[row] for row in rows]
                unknown += sum(encoder.unknown(read))
            bar.update(len(chunk))
    if unknown:
        _say(f"{unknown} of {len(kept)} texts have {encoder.blind_to}, and the model can hardly tell them apart")
    return kept, torch.cat(parts) if parts else torch.empty(0)


def read_index(path: Path, identity: str) -> tuple[list[str], Tensor]:
    """Names and embeddings of an index that the export of this identity made; a DataError where it is none."""
    with decoding(path, "what csd search index writes"):
        with safe_open(path, framework="pt") as file:
            about, names, rows = file.metadata() or {}, file.get_tensor("names"), file.get_tensor("embeddings")
        if (about.get("format"), about.get("export")) != (FORMAT, identity):
            raise DataError(f"{path} was made with another export, or by another version; index the folder again")
        names = json.loads(bytes(names.numpy()))
        if rows.ndim != 2 or len(names) != len(rows) or not all(isinstance(name, str) for name in names):
            raise ValueError("names and embeddings do not belong together")
    return names, rows


def _say(message: str) -> None:
    print(f"csd: {message}", file=sys.stderr)


def run_search(words: Sequence[str]) -> None:
    """Run ``csd search`` with the words after it."""
    parser = argparse.ArgumentParser(prog="csd search", description=FURTHER_COMMANDS["search"], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("index", help="embed a folder", allow_abbrev=False)
    make.add_argument("export", type=user_path, help="folder that csd export wrote")
    make.add_argument("folder", type=user_path, help="of images, sounds or texts; or one .txt or .csv file of texts")
    make.add_argument("--modality", required=True, help="the model's modality that they are of, e.g. image")
    make.add_argument("--out", type=user_path, help="the index; by default FOLDER.MODALITY.index.safetensors")
    ask = commands.add_parser("query", help="find the nearest entries", allow_abbrev=False)
    ask.add_argument("export", type=user_path, help="folder that csd export wrote")
    ask.add_argument("index", type=user_path, help="file that csd search index wrote")
    ask.add_argument("text", nargs="?", help="the query: a text,")
    ask.add_argument("--image", type=user_path, metavar="FILE", help="an image,")
    ask.add_argument("--sound", type=user_path, metavar="FILE", help="or a sound; or several of them, asked at once")
    ask.add_argument("--k", type=int, default=10, help="how many entries, by default 10")
    ask.add_argument("--json", action="store_true", help="print a JSON list")
    given = parser.parse_args(words)
    if given.command == "index":
        index_folder(given.export, given.folder, given.modality, given.out)
        return
    query = {name: value for name, value in vars(given).items() if name in ENDINGS and value is not None}
    if not query:
        parser.error("there is no query; give a text, --image FILE or --sound FILE, or several of them")
    hits = find(given.export, given.index, query, given.k)
    lines = [f"{hit.rank:>4}  {hit.cosine:7.4f}  {printable(hit.name)}" for hit in hits]
    print(json.dumps([hit._asdict() for hit in hits]) if given.json else "\n".join(lines))
