"""`python -m datamodules extract`: the file it writes, stopping and going on, and what it refuses."""

import json
import re
import shutil
from pathlib import Path

import extract_cases
import numpy as np
import pytest
from extract_cases import IMAGE_MODEL, ITEMS, SOUND_MODEL, SPLIT, Lengths, run, run_all, tensors_of

from datamodules import DataError, Flickr30kNarratives
from datamodules.extract import extract_features
from datamodules.files.extracted_features import read_extracted, read_metadata

bundle, root, weights, written = extract_cases.bundle, extract_cases.root, extract_cases.weights, extract_cases.written


TEXT = ("--text", "all-MiniLM-L6-v2")

# What is written ----------------------------------------------------------------------------------------------------


def test_the_file_holds_items_and_every_entry_as_its_network_returns_it(root, tmp_path):
    out = tmp_path / "out.safetensors"
    assert extract_two(root, out, Lengths())
    held, data = tensors_of(out), Flickr30kNarratives(root, modalities=["image", "text"]).data
    for name, modality in data.modalities.items():
        entries = [modality.entries[i] for i in range(len(modality.entries))]
        np.testing.assert_array_equal(held[f"features/{name}"], np.stack(Lengths()(entries, None)))
        np.testing.assert_array_equal(held[f"owner/{name}"], modality.owners())
    np.testing.assert_array_equal(held["label"], np.arange(len(ITEMS)))
    assert json.loads(held["item_names"].tobytes()) == json.loads(held["class_names"].tobytes()) == ITEMS
    np.testing.assert_array_equal(np.array(["train", "validation", "test"])[held["split"]], SPLIT)


def test_the_file_says_what_made_it(written, root):
    metadata = read_metadata(written)
    assert metadata["dataset"] == "flickr30k"
    assert metadata["data_sha256"] == Flickr30kNarratives(root).data.digest()
    encoders = json.loads(metadata["encoders"])
    assert list(encoders) == ["image", "text", "audio"]
    assert [said["model"] for said in encoders.values()] == [IMAGE_MODEL, "all-MiniLM-L6-v2", SOUND_MODEL]
    assert [said["weights"] for said in encoders.values()] == ["file image.safetensors", "published", "file sound.pt"]
    assert all(len(said["sha256"]) == 64 and "torch 2." in said["versions"] for said in encoders.values())


def test_a_second_call_changes_nothing_and_a_file_computed_anew_is_the_same_byte_for_byte(
    written, root, weights, tmp_path, capsys, monkeypatch
):
    before = written.stat()
    assert run_all(root, weights, written) == 0
    assert "there already" in capsys.readouterr().out
    after = written.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert list(written.parent.iterdir()) == [written]
    monkeypatch.setenv("CSD_CACHE", str(tmp_path / "cache"))
    assert run_all(root, weights, tmp_path / "again.safetensors") == 0
    assert (tmp_path / "again.safetensors").read_bytes() == written.read_bytes()


def test_a_file_of_other_networks_is_never_written_over(written, root, weights, capsys):
    before = written.read_bytes()
    image = ("--image", IMAGE_MODEL, "--image-weights", weights["image"])
    assert run("flickr30k", *image, *TEXT, "--data-root", root, "--out", written) == 1
    assert f"FAILED   {written} holds features of other data, class names or networks" in capsys.readouterr().out
    assert written.read_bytes() == before


def test_other_modalities_need_not_be_there(root, tmp_path):
    copied, out = Path(shutil.copytree(root, tmp_path / "root")), tmp_path / "two.safetensors"
    shutil.rmtree(copied / "flickr30k" / "voice-recordings")
    assert extract_two(copied, out, Lengths())
    assert list(read_extracted(out).vectors) == ["image", "text"]


def test_the_command_refuses_or_drops_items_with_a_broken_file(root, weights, tmp_path, capsys):
    copied = Path(shutil.copytree(root, tmp_path / "root"))
    (copied / "flickr30k" / "flickr30k-images" / "12.jpg").write_bytes(b"no image")
    out = tmp_path / "out.safetensors"
    with pytest.warns(UserWarning, match=r"12.jpg"):
        assert run_all(copied, weights, out) == 1
    assert "12.jpg" in capsys.readouterr().out
    with pytest.warns(UserWarning, match=r"12.jpg"):
        assert run_all(copied, weights, out, "--drop") == 0
    assert read_extracted(out).class_names == tuple(item for item in ITEMS if item != "12")


# Stopping and going on ----------------------------------------------------------------------------------------------


def extract_two(root: Path, out: Path, network: Lengths) -> bool:
    module = Flickr30kNarratives(root, modalities=["image", "text"])
    return extract_features(module, {"image": lambda: network, "text": lambda: network}, out)


@pytest.mark.parametrize("stop_after", [0, 1, 3, 4])
def test_a_stopped_run_goes_on_with_what_is_missing_and_writes_the_same_file(
    root, tmp_path, stop_after, cache, monkeypatch
):
    monkeypatch.setattr("datamodules.features.precompute.PIECE", 3)
    out, whole, rest = tmp_path / "stopped" / "out.safetensors", Lengths(), Lengths()
    with pytest.raises(KeyboardInterrupt):
        extract_two(root, out, Lengths(stop_after))
    assert not out.exists()
    assert extract_two(root, out, rest)
    assert list(out.parent.iterdir()) == [out]
    assert len(list(cache.glob("precomputed-*"))) == 2, "pieces are removed when all are joined"
    monkeypatch.setenv("CSD_CACHE", str(tmp_path / "another"))
    assert extract_two(root, tmp_path / "whole.safetensors", whole)
    assert whole.calls == -(-len(ITEMS) // 3) + 1  # texts go through at once
    assert rest.calls == whole.calls - stop_after
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image", IMAGE_MODEL), "expected networks for two modalities or more: name them by --image"),
        ((), "expected networks for two modalities or more"),
        ((*TEXT, "--sound", "tiny", "--sound-weights", None, "--features", "karpathy"), "no modality 'audio'; it has"),
        (("--image-weights", "w.pth", *TEXT), "--image-weights are given and no --image"),
        ((*TEXT, "--out", "features.npz"), "expected a name ending in .safetensors"),
        ((*TEXT, "--image", IMAGE_MODEL, "--features", "cooked"), "as 'cooked'; it can as raw"),
        ((*TEXT, "--image", "timm/resnet_none"), "no model 'resnet_none'; nearest: .*resnet"),
        ((*TEXT, "--image", "hf-hub:one/other"), "timm has no model 'hf-hub:one/other'"),
        ((*TEXT, "--image", IMAGE_MODEL, "--image-weights", "no.pth"), "no.pth cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said(root, weights, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run("flickr30k", "--data-root", root, *(weights["sound"] if x is None else x for x in arguments)) == 1
    assert re.search(message, capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []


class Full(Lengths):
    key = "full"

    def __call__(self, entries, rate):
        raise RuntimeError("out of memory")


def test_entries_that_a_network_cannot_take_are_refused(root, tmp_path):
    with pytest.raises(DataError, match=r"image cannot go through lengths \(RuntimeError: out of"):
        extract_two(root, tmp_path / "out.safetensors", Full())
