"""Images, sounds and texts of a folder that is no data set: which are found, and how they are decoded."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from PIL import Image
from search_cases import RATE, sound

from datamodules import DataError
from datamodules.files.media import faults, read_image
from lightning_modules.serving.folders import decode, read_folder

CUTS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"  # at which str.splitlines cuts, and files do not


def png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


def test_files_are_found_in_order_and_decoded_when_they_are_asked_for(tmp_path):
    wanted = ["b.PNG", "deeper/a.jpg", "deeper/still/c.jpeg"]
    for name in reversed(wanted):
        png(tmp_path / name)
    for name in ("notes.txt", ".hidden.jpg", ".hidden/h.jpg", "deeper/.hidden/still/h.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("no image")
    (tmp_path / "folder.jpg").mkdir()
    names, entries = read_folder(tmp_path, "image", None)
    assert names == wanted
    for name, path, pixels in zip(names, entries.paths, entries, strict=True):
        assert path == tmp_path / name
        np.testing.assert_array_equal(pixels, read_image(path))


def test_linked_folders_are_entered_once_each(tmp_path):
    where = tmp_path / "gallery"
    png(where / "z" / "a.png")
    png(tmp_path / "elsewhere" / "deeper" / "b.png")
    (tmp_path / "elsewhere" / "back").symlink_to(where)
    (where / "linked").symlink_to(tmp_path / "elsewhere")
    (where / "z" / "loop").symlink_to(where)
    (where / "deep").symlink_to(tmp_path / "elsewhere" / "deeper")
    (where / "file.png").symlink_to(where / "z" / "a.png")
    names, _ = read_folder(where, "image", None)
    assert names == ["deep/b.png", "file.png", "z/a.png"]
    (tmp_path / "link").symlink_to(where)
    assert read_folder(tmp_path / "link", "image", None)[0] == names


@pytest.mark.parametrize(("content", "name"), [("image", "b.jpg"), ("sound", "b.wav"), ("text", "b.txt")])
def test_links_to_nowhere_and_broken_files_are_named(content, name, tmp_path):
    (tmp_path / name).symlink_to(tmp_path / "gone")
    (tmp_path / f"self-{name}").symlink_to(tmp_path / f"self-{name}")
    (tmp_path / f"wrong-{name}").write_bytes(b"\xff no entry")
    os.mkfifo(tmp_path / f"pipe-{name}")
    names, entries = read_folder(tmp_path, content, RATE if content == "sound" else None)
    assert names == [name, f"self-{name}", f"wrong-{name}"]
    for row, fault in faults(entries, range(3)).items():
        assert fault.startswith(f"{entries.paths[row]}: ")
        assert "Expected in" not in fault, "the folder belongs to no data set"
    assert len(faults(entries, range(3))) == 3


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    png(tmp_path / "a.png")
    png(tmp_path / "locked" / "b.png")
    listed = os.scandir

    def locked(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", locked)
    names, entries = read_folder(tmp_path, "image", None)
    assert names == ["a.png", "locked"]
    assert list(faults(entries, range(2))) == [1]


def test_a_file_is_no_folder_of_images(tmp_path):
    for content in ("image", "sound"):
        with pytest.raises(DataError, match=rf"a.png is a file; expected a folder of {content}s"):
            read_folder(png(tmp_path / "a.png"), content, None)


def test_an_image_whose_name_is_no_utf_8_is_read_and_such_a_sound_is_named(tmp_path):
    path = tmp_path / os.fsdecode(b"bad\xff.wav")
    soundfile.write(tmp_path / "good.wav", sound(3), RATE)
    os.rename(tmp_path / "good.wav", path)
    os.rename(png(tmp_path / "good.png"), path.with_suffix(".png"))
    assert decode(path.with_suffix(".png"), None).shape == (4, 4, 3)
    with pytest.raises(DataError, match="rename it"):
        decode(path, RATE)


def test_sounds_are_resampled_to_the_rate_asked_for(tmp_path):
    wave = sound(3, 16000)
    soundfile.write(tmp_path / "sound.wav", wave, 16000, subtype="FLOAT")
    expected = torchaudio.functional.resample(torch.from_numpy(wave), 16000, RATE).numpy()
    np.testing.assert_array_equal(decode(tmp_path / "sound.wav", RATE), expected)
    np.testing.assert_array_equal(decode(tmp_path / "sound.wav", 16000), wave)


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", "one\n\n  two \nthree, four", ["one", "two", "three, four"]),
        ("a.csv", 'one\n\n"two, three"', ["one", "two, three"]),
        ("a.csv", 'id,Text,more\n1,one,x\n2,"two",y\n3\n4, ,z', ["one", "two"]),
        ("a.csv", "caption\none", ["one"]),
        ("a.csv", f'id,text\n1,"two\n\nlines, a{CUTS}b"\n2,\x0cb{CUTS}c', [f"two\n\nlines, a{CUTS}b", f"b{CUTS}c"]),
        ("a.csv", '"one\r\ntwo"\r\nthree\r\n', ["one\ntwo", "three"]),
        ("captions.txt", 'image,caption\r\n1.jpg,A\r\n1.jpg,"Two, a ""dog"""', ["A", 'Two, a "dog"']),
        ("a.txt", '"image name","Caption"\n1.jpg,"a\nb"', ["a\nb"]),
        ("a.txt", "image, caption\nred, blue", ["image, caption", "red, blue"]),
        ("a.txt", "caption\none", ["caption", "one"]),
        ("a.txt", "one\rtwo", ["one", "two"]),
        ("a.csv", 'image,caption\ra.jpg,"a dog\rruns"', ["a dog\nruns"]),
        ("a.txt", f"one{CUTS}two\r\nfour", [f"one{CUTS}two", "four"]),
    ],
)
def test_texts_are_read_from_lines_and_columns(name, content, texts, tmp_path):
    (tmp_path / name).write_text(content, encoding="utf-8-sig", newline="")
    assert read_folder(tmp_path / name, "text", None) == (texts, texts)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "\n \n", "is empty"),
        ("a.csv", "one,two\n1,2", "2 columns"),
        ("a.csv", "id,text\n1", "holds no text"),
        ("a.csv", '"open', "is not CSV"),
        ("a.csv", "one\ntwo, three", "'two, three'; put texts with commas into quotes"),
        ("a.txt", "id,text\n1,one, two", "'1,one, two'; put texts with commas into quotes"),
    ],
)
def test_a_file_without_texts_is_refused(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=f"{name}: .*{message}"):
        read_folder(tmp_path / name, "text", None)
