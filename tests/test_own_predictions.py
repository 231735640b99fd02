"""From own data to a score: scikit-learn finds the MAP that `csd test` does; see also docs/your-own-data.md."""

from functools import partial
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
from own_cases import matlab73
from PIL import Image
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import normalize

from datamodules import OwnData
from lightning_modules.cli import main

N = 60
LABEL = np.arange(N) % 4
NAMES = np.array(["ant", "bee", "cat", "dog"])


def features(width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((4, width))[LABEL] + rng.standard_normal((N, width))


ARRAYS = {
    "three views": {f"view{m}": features(4 + m, m) for m in range(3)}
    | {"label": np.eye(4, dtype=int)[LABEL] | np.eye(4, dtype=int)[(LABEL + np.arange(N) % 3) % 4]},
    "no labels": {"a": features(6, 0), "b": features(5, 0)},
    "captions": {
        "image": features(6, 0),
        "text": np.concatenate([features(5, 0), features(5, 1)]),
        "text_id": np.tile(np.arange(N), 2),
        "label": NAMES[LABEL],
    },
}


def write_npz(folder: Path, data: str) -> Path:
    np.savez(folder / "own.npz", **ARRAYS[data])
    return folder / "own.npz"


def write_npy(folder: Path) -> Path:
    (folder / "own").mkdir()
    for name in ("view0", "view1"):
        np.save(folder / "own" / f"{name}.npy", ARRAYS["three views"][name])
    (folder / "own" / "labels.txt").write_text("\n".join(NAMES[LABEL]) + "\n", encoding="utf-8")
    return folder / "own"


def write_mat(folder: Path) -> Path:
    views = np.empty((6, 1), dtype=object)
    views[:, 0] = [features(4 + m, m) for m in range(6)]
    scipy.io.savemat(folder / "six.mat", {"X": views, "y": LABEL[:, None] * 10})
    return folder / "six.mat"


def write_new_mat(folder: Path) -> Path:
    return matlab73(folder / "new.mat", {"a": features(6, 0), "b": features(5, 0), "label": NAMES[LABEL]})


def write_manifest(folder: Path) -> Path:
    colours = {"ant": (220, 30, 30), "bee": (30, 160, 30), "cat": (30, 30, 220), "dog": (200, 200, 30)}
    for row, name in enumerate(NAMES[LABEL]):  # none twice: scikit-learn ranks ties in another way
        Image.new("RGB", (32, 32), tuple(x + row % 15 for x in colours[name])).save(folder / f"{row}.png")
    texts = {
        language: [f"{name} {word} {row}" for row, name in enumerate(NAMES[LABEL])]
        for language, word in (("english", "number"), ("german", "Nummer"))
    }
    table = pd.DataFrame({"image": [f"{row}.png" for row in range(N)], **texts, "label": NAMES[LABEL]})
    table.to_csv(folder / "list.csv", index=False)
    return folder / "list.csv"


CASES = {
    **{
        f"{model}, {data}": (model, partial(write_npz, data=data))
        for model, data in (
            ("LAVIMO", "three views"),
            ("CSAligner", "three views"),
            ("CMPM", "no labels"),
            ("LAVIMO", "no labels"),
            ("JFSE", "captions"),
            ("CMPM", "captions"),
        )
    },
    "JFSE, .npy and a list": ("JFSE", write_npy),
    "LAVIMO, cells of .mat": ("LAVIMO", write_mat),
    "CMPM, .mat 7.3": ("CMPM", write_new_mat),
    "LAVIMO, images and texts": ("LAVIMO", write_manifest),
    "CSAligner, images and texts": ("CSAligner", write_manifest),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * case.endswith("images and texts")) for case in CASES]
)
def test_the_path_is_enough_and_scikit_learn_finds_the_same_map(tmp_path: Path, case: str):
    model, write = CASES[case]
    path = write(tmp_path)
    words = ["--model", model, "--data", "OwnData", "--data.path", str(path)]
    words += ["--trainer.default_root_dir", str(tmp_path), "--trainer.enable_progress_bar", "false"]
    words += ["--model.width", "16"] if model == "JFSE" else []
    joint = [(("view0", "view1"), "view2")] if case == "LAVIMO, three views" else []
    words += ["--model.joint_queries", "[view0+view1->view2]"] if joint else []
    main(["fit", *words, "--trainer.max_epochs", "2"])
    for command in ("test", "predict"):
        main([command, *words, "--ckpt_path", "best"])
    scores = pd.read_csv(tmp_path / "csv" / "test_0" / "metrics.csv").iloc[-1]
    embeddings, module = dict(np.load(tmp_path / "embeddings.npz")), OwnData(path)
    for queries, gallery in [*(((one,), other) for one, other in permutations(module.modalities, 2)), *joint]:
        label, other = (embeddings[f"label/{name}"] for name in (queries[0], gallery))
        one_hot = [x if x.ndim == 2 else np.eye(N, dtype=int)[x] for x in (label, other)]
        relevant = one_hot[0] @ one_hot[1].T > 0
        # A query by several modalities of an item is the sum of their unit vectors.
        asked = sum(normalize(embeddings[name].astype(np.float64)) for name in queries)
        cosine = cosine_similarity(asked, embeddings[gallery].astype(np.float64))
        found = np.mean([average_precision_score(r, c) for r, c in zip(relevant, cosine, strict=True)])
        assert scores[f"test/standard/{'+'.join(queries)}->{gallery}/MAP"] == pytest.approx(found, abs=1e-6)
    again = OwnData(tmp_path / "embeddings.npz")
    assert again.modalities == module.modalities
    assert len(again.data) == len(module.indices("standard"))
    if case.endswith("captions"):
        assert set(again.data.class_names) == set(NAMES)


def test_predictions_of_a_zero_shot_split_say_which_classes_were_seen(tmp_path: Path):
    path = tmp_path / "own.npz"
    np.savez(path, **ARRAYS["captions"])
    words = ["--model", "CMPM", "--data", "OwnData", "--data.path", str(path), "--data.class_split", "zero-shot"]
    words += ["--trainer.default_root_dir", str(tmp_path), "--trainer.enable_progress_bar", "false"]
    main(["fit", *words, "--trainer.max_epochs", "1"])
    main(["predict", *words, "--ckpt_path", "last"])
    found, module = np.load(tmp_path / "embeddings.npz"), OwnData(path, class_split="zero-shot")
    for name in module.modalities:
        for part in ("seen", "unseen"):
            items = found[f"item/{name}"][found[f"split/{name}"] == part]
            assert set(items) == set(module.indices(part))
    assert OwnData(tmp_path / "embeddings.npz").modalities == module.modalities
