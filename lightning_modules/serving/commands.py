"""The commands ``csd export``, ``csd search index`` and ``csd search query``."""

import argparse
import json
from collections.abc import Sequence

from datamodules.files.sources import user_path
from lightning_modules.__main__ import FURTHER_COMMANDS
from lightning_modules.serving.export import export
from lightning_modules.serving.folders import ENDINGS
from lightning_modules.serving.search import find, index_folder, printable


def run_export(words: Sequence[str]) -> None:
    """Run ``csd export`` with the words after it."""
    parser = argparse.ArgumentParser(prog="csd export", description=FURTHER_COMMANDS["export"], allow_abbrev=False)
    parser.add_argument("checkpoint", type=user_path, help="a .ckpt that csd fit wrote")
    parser.add_argument("--out", type=user_path, help="folder; by default CHECKPOINT-export beside the checkpoint")
    given = parser.parse_args(words)
    print(f"wrote {printable(export(given.checkpoint, given.out))}")


def run_search(words: Sequence[str]) -> None:
    """Run ``csd search`` with the words after it."""
    parser = _search_parser()
    given = parser.parse_args(words)
    if given.command == "index":
        index_folder(given.export, given.folder, given.modality, given.out)
        return
    query = {name: getattr(given, name) for name in ENDINGS if getattr(given, name) is not None}
    if not query:
        parser.error("there is no query; give a text, --image FILE or --sound FILE, or several of them")
    hits = find(given.export, given.index, query, given.k)
    lines = [f"{hit.rank:>4}  {hit.cosine:7.4f}  {printable(hit.name)}" for hit in hits]
    print(json.dumps([hit._asdict() for hit in hits]) if given.json else "\n".join(lines))


def _search_parser() -> argparse.ArgumentParser:
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
    return parser
