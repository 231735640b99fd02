"""Where readers of texts cut lines: at line ends, and not at other characters that stand within a text."""

import json

import pytest

from datamodules import DataError
from datamodules.datasets.flickr8k import read_captions
from datamodules.datasets.flickr30k import read_narratives
from datamodules.datasets.motion_text import read_captions as read_motion_captions
from datamodules.datasets.pascal_sentences import read_sentences
from datamodules.datasets.utd_mhad import CLASSES, read_classes
from datamodules.files.text import read_lines
from lightning_modules.serving.folders import read_folder

# Those at which str.splitlines cuts and files do not.
WITHIN = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"]
within = pytest.mark.parametrize("mark", WITHIN, ids=ascii)


@pytest.fixture
def written(tmp_path):
    """Writes bytes to a file and returns its path."""

    def write(content: str | bytes, name: str = "texts.txt"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\rb\r", ["a", "b"]),  # of an old Macintosh
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),  # a byte order mark, and no end of the last line
        (b"\na\n\nb\n \n\n", ["", "a", "", "b"]),
        (b"", []),
    ],
)
def test_lines_end_where_those_of_files_do(written, content, expected):
    assert read_lines(written(content)) == expected


def test_a_text_in_another_encoding_is_refused_by_name(written):
    with pytest.raises(DataError, match=r"texts.txt: cannot be read as text"):
        read_lines(written("a dog".encode("utf-16")))


@within
def test_no_reader_cuts_within_a_text(written, mark):
    text = f"a dog{mark}runs"
    rows = "".join(f'a.jpg,"{text}"\n' for _ in range(5))
    assert read_captions(written(f"image,caption\n{rows}")) == {"a": [text] * 5}
    # JSON allows no control character to stand for itself, but all of the others.
    narrative = json.dumps({"image_id": "1", "caption": text}, ensure_ascii=mark < " ")
    assert [found.caption for found in read_narratives(written(narrative))] == [text]
    (caption,) = read_motion_captions(written(f"{text}#a/DET#0.0#0.0\n"))
    assert caption.text == text
    assert read_sentences(written(f"{text}\n" * 5)) == [text] * 5
    assert read_classes(written(f"{text}\n" * CLASSES)) == [text] * CLASSES
    assert read_folder(written(f"{text}\n{text} 2\n"), "text", None)[0] == [text, f"{text} 2"]
    assert read_folder(written(f"text\n{text}\n", "texts.csv"), "text", None)[0] == [text]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=ascii)
def test_a_caption_in_quotes_keeps_its_line_breaks(written, end):
    rows = f'a.jpg,"a dog{end}runs, ""fast"""{end}' * 5
    expected = 'a dog\nruns, "fast"'
    assert read_captions(written(f"image,caption{end}{rows}{end}")) == {"a": [expected] * 5}
    assert read_folder(written(f"image,caption{end}{rows}", "texts.csv"), "text", None)[0] == [expected] * 5
