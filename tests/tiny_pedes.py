"""A tiny CUHK-PEDES in the layout of its authors: ten persons in clothes of two colours, two photographs of each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {
    "red": (200, 40, 40),
    "green": (40, 180, 60),
    "blue": (40, 60, 200),
    "yellow": (220, 210, 50),
    "black": (15, 15, 15),
    "white": (240, 240, 240),
}
SPLITS = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
SOURCES = ("CUHK01", "Market", "test_query", "cam_a")


def clothes(person: int) -> tuple[str, str]:
    """Colours of shirt and trousers of person 1 to 10: each has other ones."""
    names = list(COLOURS)
    return names[person % 6], names[(person * 2 + person // 6 + 1) % 6]


def entries() -> list[dict[str, Any]]:
    """Twenty entries of reid_raw.json."""
    found = []
    for person, split in enumerate(SPLITS, start=1):
        shirt, trousers = clothes(person)
        for photograph in range(2):
            captions = [
                f"The person wears a {shirt} shirt and {trousers} trousers.",
                f"Somebody in {trousers.upper()} trousers , with a {shirt} t-shirt; photograph {photograph}.",
            ]
            ending = "png" if photograph else "jpg"
            found.append(
                {
                    "split": split,
                    "captions": captions,
                    "file_path": f"{SOURCES[person % 4]}/{person:04d}_{photograph}.{ending}",
                    "processed_tokens": [caption.lower().split() for caption in captions],
                    "id": person,
                }
            )
    return found


def photograph(person: int, number: int) -> np.ndarray:
    """(H, W, 3) uint8: shirt above trousers with some noise, higher than wide; no two of a person are alike."""
    shirt, trousers = (np.array(COLOURS[name]) for name in clothes(person))
    draw = np.random.default_rng((person, number))
    height, width = 48 + 4 * number, 16 + number
    pixels = np.where(np.arange(height)[:, None, None] < height // 2, shirt, trousers) * np.ones((height, width, 1))
    return (pixels + draw.integers(-15, 16, pixels.shape)).clip(0, 255).astype(np.uint8)


def write_pedes(root: Path) -> Path:
    """Write the data set below a data root; return its folder."""
    folder = root / "CUHK-PEDES"
    for entry in entries():
        path = folder / "imgs" / entry["file_path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(entry["id"], int(path.stem[-1]))).save(path, quality=95)
    write_annotations(folder, entries())
    return folder


def write_annotations(folder: Path, found: Any, name: str = "reid_raw.json") -> None:
    (folder / name).write_text(found if isinstance(found, str) else json.dumps(found), encoding="utf-8")
