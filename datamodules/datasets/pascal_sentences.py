"""Pascal Sentences (Rashtchian et al., 2010): a thousand images of twenty classes with five sentences each."""

from pathlib import Path

import numpy as np

from datamodules.datasets import DATASETS
from datamodules.datasets.on_disk import OnDisk
from datamodules.files.media import image_of_each
from datamodules.files.text import broken, names_in, require
from datamodules.items import ItemSet, Modality
from datamodules.splits import carve_validation


class PascalSentences(OnDisk):
    """Images and their sentences; an item is an image, and matches those of its class with all their sentences.

    The files are as the downloader rupy/PascalSentenceDataset writes them from the authors' page. It leaves out the
    point and calls a text `<image>txt`; both names are read.

    The authors give no split. The usual sizes are 800, 100 and 100, and whose images are which is not published: of
    every class, a tenth of the images (5 of 50) is drawn for test and as many for validation by ``split_seed``, so that
    numbers of another seed, or of other papers, are of other test images.
    """

    declaration = DATASETS["pascal_sentences"]
    test_split = "drawn"

    def read(self) -> ItemSet:
        """Read the sentences, look which images there are, and draw the split."""
        folder = self.folder
        images, sentences = (require(folder / name) for name in ("dataset", "sentence"))
        # Of either, so that a missing file of one modality neither hides the item nor moves the split.
        described = _below(sentences, "txt")
        names = sorted({*_below(images, ".jpg"), *described})
        if not names:
            raise broken(folder, "has no dataset/<class>/<image>.jpg")
        classes, label = np.unique([name.split("/")[0] for name in names], return_inverse=True)

        def text() -> Modality:
            of_each = [self.attempt(n, _sentences, described[n]) if n in described else None for n in names]
            return Modality.of_each(of_each)

        readers = {"image": lambda: image_of_each(images, [f"{name}.jpg" for name in names]), "text": text}
        return self.items(readers, names, draw_split(label, self.split_seed), label, class_names=classes.tolist())


def _below(folder: Path, ending: str) -> dict[str, Path]:
    """<class>/<image> -> file with that ending, with or without a point before it."""
    paths = sorted(folder.glob(f"*/*{ending}"), reverse=True)  # of <image>txt and <image>.txt the latter is kept
    return {path.relative_to(folder).as_posix().removesuffix(ending).removesuffix("."): path for path in paths}


def _sentences(path: Path) -> list[str]:
    sentences = names_in(path)
    if not sentences:
        raise broken(path, "has no sentence; expected five, one per line")
    return sentences


def draw_split(label: np.ndarray, seed: int) -> np.ndarray:
    """(n,) split of each image: of every class a tenth for test, as many for validation, the rest for training.

    Args:
        label: (n,) integers.
        seed: 0 or more.
    """
    split = np.full(len(label), "train", dtype="U10")
    rest, test = carve_validation(label, np.arange(len(label)), 0.1, seed)
    _, validation = carve_validation(label, rest, 1 / 9, seed)
    split[test], split[validation] = "test", "validation"
    return split
