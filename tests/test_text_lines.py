"""Where readers of texts cut lines: at line ends, and not at other characters that stand within a text."""

import json
from pathlib import Path

import pytest
from check_cases import MODULES

from datamodules import DataError
from datamodules.files.text import read_lines

# With characters at which str.splitlines cuts and files do not.
TEXT = "a dog\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1eruns"
IN_JSON = json.dumps(TEXT, ensure_ascii=False)[1:-1]  # where control characters are escaped, and no others


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\rb\r", ["a", "b"]),  # of an old Macintosh
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),  # a byte order mark, and no end of the last line
        (b"\na\n\nb\n \n\n", ["", "a", "", "b"]),
        (b"", []),
        (f"{TEXT}\n{TEXT}".encode(), [TEXT, TEXT]),
    ],
)
def test_lines_end_where_those_of_files_do(tmp_path, content, expected):
    (tmp_path / "texts.txt").write_bytes(content)
    assert read_lines(tmp_path / "texts.txt") == expected
    (tmp_path / "texts.txt").write_bytes("a dog".encode("utf-16"))
    with pytest.raises(DataError, match=r"texts.txt: cannot be read as text"):
        read_lines(tmp_path / "texts.txt")


@pytest.mark.parametrize(
    ("name", "other", "file", "old", "new"),
    [
        ("flickr8k_tri", "image", "captions.txt", "Caption 0 of name000", TEXT),
        ("flickr8k_tri", "image", "captions.txt", "Caption 0 of name000", 'a dog\nruns, ""fast""'),  # in quotes
        ("flickr30k, narratives", "image", "flickr30k_train_captions.jsonl", "Words 0", IN_JSON),
        ("humanml3d", "motion", "texts/000001.txt", "a man waits", TEXT),
        ("pascal_sentences", "image", "sentence/bicycle/2008_001002.txt", "Sentence 0", TEXT),
        ("utd_mhad", "motion", "class_names.txt", "phrase 1\n", f"{TEXT}\n"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=ascii)
def test_no_reader_of_a_data_set_cuts_within_a_text(tree, name, other, file, old, new, end):
    path = tree(name) / file
    content = path.read_text(encoding="utf-8")
    assert old in content
    path.write_bytes(content.replace(old, new).replace("\n", end).encode())
    expected = new.replace('""', '"') if '""' in new else TEXT
    texts = MODULES[name](path.parents[len(Path(file).parts)], modalities=["text", other]).data.modalities["text"]
    assert any(text.startswith(expected) for text in texts.entries)
