"""From own data to a score: every model takes them by their path alone, and scikit-learn finds the same MAP."""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity

from datamodules import OwnData
from lightning_modules.cli import main

N = 60
LABEL = np.arange(N) % 4


def features(width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((4, width))[LABEL] + rng.standard_normal((N, width))


def two_files(folder: Path) -> Path:
    for name, width in (("image", 6), ("text", 5)):
        np.save(folder / f"{name}.npy", features(width, width))
    (folder / "labels.txt").write_text("\n".join(f"class of {c}" for c in LABEL) + "\n")
    return folder


def three_views(folder: Path) -> Path:
    views = {f"view{m}": features(4 + m, m) for m in range(3)}
    several = np.eye(4, dtype=int)[LABEL] | np.eye(4, dtype=int)[(LABEL + np.arange(N) % 3) % 4]
    np.savez(folder / "views.npz", **views, label=several)
    return folder / "views.npz"


def no_labels(folder: Path) -> Path:
    np.savez(folder / "pairs.npz", a=features(6, 0), b=features(5, 0))
    return folder / "pairs.npz"


def captions(folder: Path) -> Path:
    text, owner = np.concatenate([features(5, 0), features(5, 1)]), np.tile(np.arange(N), 2)
    np.savez(folder / "captions.npz", image=features(6, 0), text=text, text_id=owner, label=LABEL * 10)
    return folder / "captions.npz"


def manifest(folder: Path) -> Path:
    rows = []
    for i in range(N):
        Image.fromarray(np.full((8, 8, 3), 4 * i, dtype=np.uint8)).save(folder / f"{i}.png")
        rows += [(f"{i}.png", f"grey number {i}", f"caption {k} of {i}", f"shade {i % 4}") for k in range(2)]
    pd.DataFrame(rows, columns=["image", "english", "other", "label"]).to_csv(folder / "list.csv", index=False)
    return folder / "list.csv"


@pytest.mark.parametrize(
    ("model", "make"),
    [
        *((model, two_files) for model in ("JFSE", "CMPM", "LAVIMO", "CSAligner")),
        *((model, three_views) for model in ("LAVIMO", "CSAligner")),
        *((model, no_labels) for model in ("CMPM", "LAVIMO", "CSAligner")),
        *((model, captions) for model in ("JFSE", "CMPM", "LAVIMO")),
        ("LAVIMO", manifest),
    ],
)
def test_the_path_is_enough_and_scikit_learn_finds_the_same_map(tmp_path, model: str, make: Callable[[Path], Path]):
    (tmp_path / "data").mkdir()
    path = make(tmp_path / "data")
    words = ["--model", model, "--data", "OwnData", "--data.path", str(path)]
    words += ["--trainer.default_root_dir", str(tmp_path), "--trainer.enable_progress_bar", "false"]
    width = ["--model.width", "16"] if model == "JFSE" else []
    main(["fit", *words, *width, "--trainer.max_epochs", "2"])
    for command in ("test", "predict"):
        main([command, *words, *width, "--ckpt_path", "last"])
    scores = pd.read_csv(tmp_path / "csv" / "test_0" / "metrics.csv").iloc[-1]
    embeddings = dict(np.load(tmp_path / "embeddings.npz"))
    modalities = OwnData(path).modalities
    for query, gallery in permutations(modalities, 2):
        label, other = (embeddings.get(f"label/{name}", embeddings.get("label")) for name in (query, gallery))
        one_hot = [x if x.ndim == 2 else np.eye(N, dtype=int)[x] for x in (label, other)]
        relevant = one_hot[0] @ one_hot[1].T > 0
        cosine = cosine_similarity(embeddings[query].astype(np.float64), embeddings[gallery].astype(np.float64))
        found = np.mean([average_precision_score(r, c) for r, c in zip(relevant, cosine, strict=True)])
        assert scores[f"test/standard/{query}->{gallery}/MAP"] == pytest.approx(found, abs=1e-6)
    again = OwnData(tmp_path / "embeddings.npz")
    assert again.modalities == modalities
    assert len(again.data) == len(OwnData(path).indices("standard"))
    if make is two_files:
        assert set(again.data.class_names) == {f"class of {c}" for c in range(4)}
