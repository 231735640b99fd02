"""Images, sounds and texts of a folder that is no data set: which are found, and how they are decoded."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from PIL import Image
from search_cases import RATE, sound

from datamodules import DataError
from datamodules.folders import decode, read_folder, readable
from datamodules.items import Files
from datamodules.media import read_image


def test_files_are_found_in_order_and_decoded_when_they_are_asked_for(tmp_path):
    draw = np.random.default_rng(0)
    wanted = ["b.PNG", "deeper/a.jpg", "deeper/still/c.jpeg"]
    for name in reversed(wanted):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (5, 7, 3), dtype=np.uint8)).save(tmp_path / name)
    for name in ("notes.txt", ".hidden.jpg"):
        (tmp_path / name).write_text("no image")
    (tmp_path / "folder.jpg").mkdir()
    names, entries = read_folder(tmp_path, "image", None)
    assert names == wanted
    assert isinstance(entries, Files)
    for name, path, pixels in zip(names, entries.paths, entries, strict=True):
        assert path == tmp_path / name
        np.testing.assert_array_equal(pixels, read_image(path, "flickr8k_tri"))


def test_files_that_cannot_be_decoded_are_told_from_the_others(tmp_path):
    for name in ("a", "c"):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_text("no image")
    _, entries = read_folder(tmp_path, "image", None)
    rows, faults = readable(entries, range(3))
    assert rows == [0, 2]
    (fault,) = faults
    assert fault.startswith(f"{tmp_path / 'b.png'}: is not a readable image (UnidentifiedImageError")
    assert "Expected in" not in fault, "advice on the layout of a data set is no use here"


def test_sounds_are_resampled_to_the_rate_asked_for(tmp_path):
    wave = sound(3, 16000)
    soundfile.write(tmp_path / "sound.wav", wave, 16000, subtype="FLOAT")
    expected = torchaudio.functional.resample(torch.from_numpy(wave), 16000, RATE).numpy()
    np.testing.assert_array_equal(decode(tmp_path / "sound.wav", RATE), expected)
    np.testing.assert_array_equal(decode(tmp_path / "sound.wav", 16000), wave)


def test_a_sound_that_is_shorter_than_a_window_is_broken(tmp_path):
    soundfile.write(tmp_path / "short.wav", sound(0)[:150], RATE)
    with pytest.raises(DataError, match=r"short.wav: lasts 19 ms; expected at least 25"):
        decode(tmp_path / "short.wav", RATE)


def test_a_sound_that_is_none_is_broken(tmp_path):
    (tmp_path / "a.mp3").write_text("no sound")
    with pytest.raises(DataError, match=r"a.mp3: is not a readable sound \(LibsndfileError") as stop:
        decode(tmp_path / "a.mp3", RATE)
    assert "Expected in" not in str(stop.value)


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", "one\n\n  two \nthree, four", ["one", "two", "three, four"]),
        ("a.csv", 'one\n\n"two, three"', ["one", "two, three"]),
        ("a.csv", 'id,Text,more\n1,one,x\n2,"two",y\n3\n4, ,z', ["one", "two"]),
        ("a.csv", "caption\none", ["one"]),
    ],
)
def test_texts_are_read_from_lines_and_columns(name, content, texts, tmp_path):
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert read_folder(tmp_path / name, "text", None) == (texts, texts)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "\n \n", r"a.txt: is empty"),
        ("a.csv", "one,two\n1,2", r"a.csv: has 2 columns; expected one, or a header with text or caption"),
        ("a.csv", "id,text\n1", r"a.csv: holds no text"),
        ("a.csv", '"open', r"a.csv: is not CSV text"),
    ],
)
def test_a_file_without_texts_is_refused(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_folder(tmp_path / name, "text", None)
