"""Whole files of every form that is read, broken at random: each must be read, or refused by an error that names it."""

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import own_cases
import torch
import yaml
from PIL import Image

from datamodules.files.extracted_features import write_features, write_safetensors
from datamodules.files.media import read_image, read_sound
from datamodules.files.text import read_lines
from datamodules.files.text_matrix import Part, read_parts
from lightning_modules.checkpoints import read_checkpoint
from lightning_modules.serving.export import export_identity
from lightning_modules.serving.search import read_index
from reproduce.results.schema import read_table
from reproduce.runs.spec import read_yaml
from reproduce.runs.store import RunResult, RunStore, Score

MEMORY = 2**31  # bytes that reading a file of some kilobytes may take: images have up to 179 million pixels
SECONDS = 10.0  # of the processor that it may take
RATE = 16_000
Whole = tuple[Path, Callable[[], object]]  # the file or folder, and how it is read


def _own(form: str) -> Callable[[Path], Whole]:
    def write(folder: Path) -> Whole:
        path = own_cases.WRITERS[form](folder, own_cases.make_parts())
        return path, lambda: own_cases.read(path)

    return write


def _karpathy(folder: Path) -> Whole:
    parts = own_cases.joined()["split"]
    images = [{"filename": f"{n}.jpg", "split": f"{p}", "sentences": [{"raw": f"t {n}"}]} for n, p in enumerate(parts)]
    for image in images:
        Image.new("RGB", (2, 2)).save(folder / image["filename"])
    (folder / "own.json").write_text(json.dumps({"images": images}))
    return folder / "own.json", lambda: own_cases.read(folder / "own.json")


def _manifest(folder: Path) -> Whole:
    """JSON lines with everything that a row may hold."""
    rows = [
        {"id": f"i{n}", "image": f"{n}.jpg", "text": [f"a {n}", t], "vector": [n, 1.5], "label": ["x", f"y{n % 2}"]}
        for n in range(10)
        for t in ("b", "c")
    ]
    for row in rows:
        Image.new("RGB", (2, 2)).save(folder / row["image"])
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "own.jsonl", lambda: own_cases.read(folder / "own.jsonl")


def _extracted(folder: Path) -> Whole:
    data, path = own_cases.read(own_cases.write_npz(folder, own_cases.make_parts())), folder / "own.safetensors"
    made = {name: {"model": "m", "weights": "w"} for name in data.vectors}
    with path.open("wb") as file:
        write_features(file, data, data.vectors, {"encoders": json.dumps(made)})
    return path, lambda: own_cases.read(path)


def _index(folder: Path) -> Whole:
    names = np.frombuffer(json.dumps([f"{n}.jpg" for n in range(5)]).encode(), np.uint8)
    with (path := folder / "index.safetensors").open("wb") as file:
        tensors = {"embeddings": np.eye(5, dtype=np.float32), "names": names}
        write_safetensors(file, tensors, {"format": "1", "modality": "image", "export": "made by"})
    return path, lambda: read_index(path, "made by")


def _checkpoint(folder: Path) -> Whole:
    content = {"state_dict": {"weight": torch.ones(3, 3)}, "hyper_parameters": {"dims": {"image": 3}}, "epoch": 1}
    torch.save(content, folder / "last.ckpt")
    return folder / "last.ckpt", lambda: read_checkpoint(folder / "last.ckpt")


def _yaml(name: str, content: dict, read: Callable[[Path], object]) -> Callable[[Path], Whole]:
    def write(folder: Path) -> Whole:
        (folder / name).write_text(yaml.safe_dump(content))
        return folder / name, lambda: read(folder / name)

    return write


ENCODERS = {"text": {"name": "words", "width": 3}, "image": {"name": "convolutions"}}
EXPORT = {"format": 3, "class": "lightning_modules.LAVIMO", "init_args": {"encoders": ENCODERS, "width": 8}}
EXPORT |= {"front_ends": {"image": "key"}, "weights_sha256": "0" * 64}
TABLE = {"title": "A table", "metrics": ["MAP", "R@5"], "methods": [{"method": "JFSE", "trials": [{"width": 1e-3}]}]}


def _image(ending: str, mode: str = "RGB", **settings: object) -> Callable[[Path], Whole]:
    def write(folder: Path) -> Whole:
        drawn = np.random.default_rng(0).integers(0, 255, (24, 17, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "held upright"
        Image.fromarray(drawn).convert(mode).save(folder / f"image{ending}", exif=exif, **settings)
        return folder / f"image{ending}", lambda: read_image(folder / f"image{ending}")

    return write


def _sound(ending: str) -> Callable[[Path], Whole]:
    def write(folder: Path) -> Whole:
        import soundfile

        wave = np.sin(np.arange(2000) / 5)[:, None] * [0.5, 0.3]
        soundfile.write(path := folder / f"sound{ending}", wave, 22_050)
        return path, lambda: read_sound(path, RATE, resample=True)

    return write


def _matrix(folder: Path) -> Whole:
    np.savetxt(path := folder / "matrix.txt", np.arange(30.0).reshape(6, 5))
    return path, lambda: read_parts([Part([path], np.array([0, 3]), 6)])


def _lines(folder: Path) -> Whole:
    import gzip

    (folder / "lines.gz").write_bytes(gzip.compress("\n".join(f"line {n} é" for n in range(50)).encode()))
    return folder / "lines.gz", lambda: read_lines(folder / "lines.gz")


def _results(folder: Path) -> Whole:
    source = Path(__file__).parents[1] / "results" / "table1.csv"
    (folder / "table1.csv").write_bytes(source.read_bytes())
    return folder / "table1.csv", lambda: read_table(folder / "table1.csv")


def _run(folder: Path) -> Whole:
    """A kept run; one that cannot be read is trained again, and so is none."""
    result = RunResult([Score("standard", "full", "average", "MAP", "all", 0.5)], 1.0, "cpu", "0f", "2")
    RunStore(folder / "kept").save("key", {}, result)
    return folder / "kept", lambda: RunStore(folder / "kept").load("key")


FORMS: dict[str, Callable[[Path], Whole]] = {
    **{f"features, {form}": _own(form) for form in own_cases.WRITERS},
    "manifest, json": _karpathy,
    "manifest, jsonl": _manifest,
    "features, safetensors": _extracted,
    "search index, safetensors": _index,
    "checkpoint": _checkpoint,
    "export, yaml": _yaml("model.yaml", EXPORT, lambda path: export_identity(path.parent)),
    "table, yaml": _yaml("table.yaml", TABLE, read_yaml),
    **{f"image, {ending[1:]}": _image(ending) for ending in (".jpg", ".png", ".webp", ".tif", ".gif", ".bmp")},
    "image, 16-bit png": _image(".png", "I;16"),
    **{f"sound, {ending[1:]}": _sound(ending) for ending in (".wav", ".flac", ".ogg", ".mp3")},
    "matrix, txt": _matrix,
    "lines, gz": _lines,
    "results, csv": _results,
    "kept run, json": _run,
}


def broken(draw: np.random.Generator, whole: bytes) -> bytes:
    """The bytes cut, with flipped bits, overwritten numbers or zeros, or with parts of them again and again."""
    data, kind, size = bytearray(whole), draw.integers(6), len(whole)
    # Lengths and shapes stand at the beginning of most forms, and at the end of archives.
    ends = [(0, size), (0, min(size, 256)), (max(0, size - 256), size)]
    low, high = ends[draw.integers(3)]
    place = int(draw.integers(low, high))
    if kind == 0:
        return whole[:place]
    if kind in (1, 2):
        for spot in draw.integers(low, high, size=draw.integers(1, 6)):
            data[spot] ^= 1 << int(draw.integers(8))
    elif kind == 3:
        width = 2 ** int(draw.integers(4))
        numbers = [0, 2 ** (8 * width - 1) - 1, 2 ** (8 * width) - 1, 2 ** (4 * width)]
        order = "little" if draw.random() < 0.7 else "big"
        data[place : place + width] = numbers[draw.integers(4)].to_bytes(width, order)
    elif kind == 4:
        again = whole[place : place + int(draw.integers(1, 2000))]
        data[place:place] = again * int(min(draw.integers(1, 2000), 2**20 // len(again)))
    else:
        data[place : place + int(draw.integers(1, 200))] = bytes(int(draw.integers(1, 200)))
    return bytes(data)


def outcome(folder: Path, form: str, seed: int, number: int) -> str:
    """ "read", "refused" or what went wrong, of one broken file."""
    draw = np.random.default_rng([seed, number, sorted(FORMS).index(form)])
    place = folder / f"{number}"
    place.mkdir(parents=True)
    path, read = FORMS[form](place)
    files = [path] if path.is_file() else sorted(each for each in path.iterdir() if each.is_file())
    file = files[draw.integers(len(files))]
    file.write_bytes(broken(draw, file.read_bytes()))
    before, start, said = _largest(), time.process_time(), "read"
    try:
        read()
    except ValueError as error:
        named = file.name in str(error) or str(path) in str(error)
        said = "refused" if named else f"{type(error).__name__} without the file: {error}"
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    if said in ("read", "refused") and _largest() - before > MEMORY:
        return f"{(_largest() - before) // 2**20} MiB of memory"
    return said if time.process_time() - start < SECONDS else f"{time.process_time() - start:.0f} s"


def _largest() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
