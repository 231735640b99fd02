"""Data drawn from a known model, for tests and for machines without data; and bits that no pair of modalities tells."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.items import ItemSet, Modality
from datamodules.paired_features import FeatureDataModule
from datamodules.retrieval_data import RetrievalData

# A latent space this small keeps classes close enough that difficulty 0.5 is neither trivial nor hopeless.
LATENT_DIM = 8
MODALITY_NOISE, MODALITY_GAP = 0.5, 1.0
ITEMS_PER_TEST_ITEM = 4

CLASS_NAMES = (
    "dog", "castle", "guitar", "volcano", "bicycle", "sandwich", "elephant", "telescope", "river", "hospital",
    "butterfly", "locomotive", "candle", "umbrella", "desert", "carpenter", "submarine", "orchid", "library",
    "hammer", "penguin", "waterfall", "wedding", "football", "skyscraper", "whale", "typewriter", "vineyard",
    "soldier", "pyramid", "violin", "tractor", "glacier", "kitchen", "spider", "helicopter", "mushroom",
    "cathedral", "necklace", "horse", "lighthouse", "newspaper", "tomato", "satellite", "blanket", "dentist",
    "crocodile", "bridge", "chess", "thunderstorm",
)  # fmt: skip


def _require_in_range(**ranges: tuple[float, float, float]) -> None:
    for name, (value, least, most) in ranges.items():
        if not least <= value <= most:
            raise ValueError(f"{name} is {value}; expected {least} {'or more' if most == np.inf else f'to {most}'}.")


class Synthetic(FeatureDataModule):
    """Image and text features of items that share a latent vector.

    Item i of class c has the latent z_i = (1 - difficulty) mu_c + difficulty e_i with class prototype mu_c and
    within-class noise e_i, both N(0, I_8). Modality m sees v_i = tanh(W_m z_i) + n_i with a random projection W_m,
    entries N(0, 1/8), and noise n_i ~ N(0, 0.25 I). Its features are v_i - mean(v) +- u / 2: a unit
    vector u over the coordinates that both modalities have is added to the image and subtracted from the text, so that
    the two centroids lie 1 apart. Labels repeat 0..classes-1; every fourth item of a class is a test item.

    Args:
        classes: number of classes, at least 2.
        items: number of image-text pairs, at least 4 per class.
        image_dim: width of the image features.
        text_dim: width of the text features.
        difficulty: share of the latent that is within-class noise: 0 easy, 1 chance.
        seed: draws the data, 0 or more.
        **kwargs: arguments of `FeatureDataModule`.

    Raises:
        ValueError: an argument outside its range.
    """

    dataset = features = data_kind = "synthetic"

    def __init__(
        self,
        classes: int = 10,
        items: int = 1000,
        image_dim: int = 128,
        text_dim: int = 100,
        difficulty: float = 0.5,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _require_in_range(
            classes=(classes, 2, np.inf),
            items=(items, ITEMS_PER_TEST_ITEM * classes, np.inf),
            image_dim=(image_dim, 1, np.inf),
            text_dim=(text_dim, 1, np.inf),
            difficulty=(difficulty, 0, 1),
            seed=(seed, 0, np.inf),
        )
        self.classes, self.items, self.widths = classes, items, {"image": image_dim, "text": text_dim}
        self.difficulty, self.seed = difficulty, seed

    def read(self) -> ItemSet:
        """Draw the items."""
        rng = np.random.default_rng(self.seed)
        order = np.arange(self.items)
        label = order % self.classes
        prototype = rng.standard_normal((self.classes, LATENT_DIM))
        noise = rng.standard_normal((self.items, LATENT_DIM))
        latent = (1 - self.difficulty) * prototype[label] + self.difficulty * noise
        direction = rng.standard_normal(min(self.widths.values()))
        offset = MODALITY_GAP / 2 * direction / np.linalg.norm(direction)
        features = {}
        for (name, dim), side in zip(self.widths.items(), (1, -1), strict=True):
            projection = rng.standard_normal((LATENT_DIM, dim)) / np.sqrt(LATENT_DIM)
            view = np.tanh(latent @ projection) + MODALITY_NOISE * rng.standard_normal((self.items, dim))
            view -= view.mean(axis=0)
            view[:, : len(offset)] += side * offset
            features[name] = view.astype(np.float32)
        last = order // self.classes % ITEMS_PER_TEST_ITEM == ITEMS_PER_TEST_ITEM - 1
        names = CLASS_NAMES + tuple(f"class {c}" for c in range(len(CLASS_NAMES), self.classes))
        split, origin = np.where(last, "test", "train"), f"synthetic data of seed {self.seed}"
        return ItemSet.of_features(features, label, split, names[: self.classes], origin)


# Several modalities -------------------------------------------------------------------------------------------------

CLASSES, PER_CLASS, TEST_SHARE = 12, 30, 3
WIDTH = 24


class SyntheticItems(RetrievalData):
    """Class-conditional vectors: item = centre of its class + noise, seen through another map in every modality.

    Args:
        names: names of the modalities.
        **kwargs: see RetrievalData.
    """

    dataset = features = data_kind = "synthetic"

    def __init__(self, names: Sequence[str] = ("text", "video", "motion"), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = tuple(names)

    def read(self) -> ItemSet:
        """Draw the items."""
        draw = np.random.default_rng(0)
        label = np.repeat(np.arange(CLASSES), PER_CLASS)
        latent = draw.standard_normal((CLASSES, LATENT_DIM))[label]
        modalities = {}
        for name in self.names:
            item = latent + draw.standard_normal(latent.shape)
            view = np.tanh(item @ draw.standard_normal((LATENT_DIM, WIDTH)) / np.sqrt(LATENT_DIM))
            modalities[name] = Modality((view + 0.1 * draw.standard_normal(view.shape)).astype(np.float32))
        number = np.arange(len(label)) % PER_CLASS
        names = [f"class {c}, item {n}" for c, n in zip(label, number, strict=True)]
        return ItemSet(modalities, label, np.where(number % TEST_SHARE, "train", "test"), names, "generated data")


# Structure that no pair of modalities has ---------------------------------------------------------------------------


class XOR(RetrievalData):
    """Vectors of B bits, written -1 and 1; the last modality is the exclusive or of the others, bit by bit.

    Any M - 1 of the M modalities are independent, so that every pair of them tells nothing, and all but one tell the
    other. An item's class is the value of its last modality, one of 2^B. Training, validation and test items are drawn
    alike.

    Args:
        names: names of the modalities, three or more.
        bits: B.
        items: training items; and test items, half as many.
        seed: draws the data.
        **kwargs: see RetrievalData.

    Raises:
        ValueError: fewer than three names, or a number below 1.

    Source: Saporta et al., NeurIPS 2024 (Symile), the example of section 3.
    """

    dataset = features = "xor"
    data_kind = "synthetic"

    def __init__(
        self, names: Sequence[str] = ("a", "b", "c"), bits: int = 5, items: int = 4000, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if len(names) < 3:
            raise ValueError(f"names is {list(names)}; expected three modalities or more.")
        _require_in_range(bits=(bits, 1, np.inf), items=(items, 1, np.inf))
        self.names, self.bits, self.items, self.seed = tuple(names), bits, items, seed

    def read(self) -> ItemSet:
        """Draw the items."""
        count = self.items + self.items // 2
        drawn = np.random.default_rng(self.seed).integers(2, size=(len(self.names) - 1, count, self.bits))
        bits = [*drawn, drawn.sum(axis=0) % 2]
        modalities = {
            name: Modality((2 * rows - 1).astype(np.float32)) for name, rows in zip(self.names, bits, strict=True)
        }
        label = bits[-1] @ (1 << np.arange(self.bits))
        split = np.repeat(["train", "test"], [self.items, count - self.items])
        names = [f"item {number}" for number in range(count)]
        return ItemSet(modalities, label, split, names, f"generated bits of seed {self.seed}")
