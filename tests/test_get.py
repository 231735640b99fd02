"""The data root, fetching declared files from a server on this machine, and the command `get`."""

import hashlib
import os
import re
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datamodules import DataError, DataMissing, Wikipedia
from datamodules.__main__ import main
from datamodules.datasets import DATASETS
from datamodules.declaration import Declaration
from datamodules.files.download import SourceFile, fetch
from datamodules.files.sources import data_root, root_is_named, sha256_of

CONTENT = b"feature " * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


ANSWERS = {"good": CONTENT, "wrong": CONTENT[::-1], "broken": CONTENT[: len(CONTENT) // 2]}


class Handler(BaseHTTPRequestHandler):
    """/good: the content; /wrong: other bytes of the same length; /broken: half of it; anything else: 404."""

    def do_GET(self):
        self.server.asked += 1
        body = ANSWERS.get(self.path.rsplit("/", 1)[-1])
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(CONTENT) if body else 0))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *arguments):
        """Keep the test's output free of access lines."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked, running.url = 0, f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """An empty current directory with no data root named."""
    monkeypatch.delenv("CSD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source_file(url: str, number: int = 0) -> SourceFile:
    return SourceFile(f"file{number}.bin", "forty kilobytes", url, SHA256, len(CONTENT))


def declared(*urls: str) -> Declaration:
    """Wikipedia with other files."""
    files = tuple(source_file(url, number) for number, url in enumerate(urls))
    return replace(DATASETS["wikipedia"], files=files, licence="free for all", citation="Nobody, 1999")


# Data root ----------------------------------------------------------------------------------------------------------


def test_argument_goes_before_environment_before_data_folder(nowhere, monkeypatch):
    assert not root_is_named(None)
    assert data_root(None).as_posix() == "data"
    for name in ("one", "two"):
        (nowhere / name).mkdir()
    monkeypatch.setenv("CSD_DATA", str(nowhere / "one"))
    assert data_root(None) == nowhere / "one"
    assert data_root(nowhere / "two") == nowhere / "two"
    assert root_is_named(None)
    monkeypatch.setenv("CSD_DATA", "")
    assert data_root(None).as_posix() == "data"


@pytest.mark.parametrize(
    ("place", "named", "said"),
    [
        ("nowhere", True, "the data root, does not exist"),
        ("file", True, "the data root, is not a folder"),
        ("nowhere", False, "CSD_DATA, does not exist"),
        ("data", None, "default data root, is not a folder"),
    ],
)
def test_a_root_that_is_missing_or_a_file_is_an_error(nowhere, monkeypatch, place, named, said, capsys):
    for name in ("file", "data"):
        (nowhere / name).write_text("")
    if named is False:
        monkeypatch.setenv("CSD_DATA", str(nowhere / place))
    with pytest.raises(DataError, match=said):
        data_root(nowhere / place if named else None)
    with pytest.raises(DataError, match=f"{nowhere} cannot be read"):
        sha256_of(nowhere)
    assert get(nowhere / "file" / "wikipedia") == 1
    assert "FAILED" in capsys.readouterr().out


def test_every_file_that_can_be_fetched_is_pinned():
    assert DATASETS["wikipedia"].files
    for file in [file for declaration in DATASETS.values() for file in declaration.files]:
        assert re.fullmatch(r"https://\S+/[0-9a-f]{40}/\S+", file.url), "pinned to a commit"
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert file.size > 0


# One file -----------------------------------------------------------------------------------------------------------


def test_a_good_file_is_not_touched_and_another_neither_and_nothing_is_asked(server, tmp_path):
    file, path = source_file(f"{server.url}/good"), tmp_path / "new" / "file0.bin"
    assert fetch(file, path.parent)
    assert path.read_bytes() == CONTENT
    os.utime(path, ns=(1, 1))
    assert not fetch(file, path.parent)
    assert path.stat().st_mtime_ns == 1
    path.write_bytes(b"mine")
    with pytest.raises(DataMissing, match=r"file0\.bin is another file .* move it away"):
        fetch(file, path.parent)
    assert path.read_bytes() == b"mine"
    assert server.asked == 1


@pytest.mark.parametrize("answer", ["wrong", "broken", "absent", "silence"])
def test_a_failed_transfer_leaves_nothing_behind_and_names_file_and_address(server, nowhere, answer):
    with socket.socket() as free:  # of whose port nobody answers
        free.bind(("127.0.0.1", 0))
        silent = f"http://127.0.0.1:{free.getsockname()[1]}/good"
    url = silent if answer == "silence" else f"{server.url}/{answer}"
    with pytest.raises(DataMissing) as error:
        fetch(source_file(url), nowhere / "data" / "wikipedia")
    assert str(Path("wikipedia", "file0.bin")) in str(error.value)
    assert url in str(error.value)
    assert list(nowhere.iterdir()) == []


# Finding or fetching the files of a data set ------------------------------------------------------------------------


def test_fetched_files_are_whole_and_announced_in_one_line(server, nowhere, capsys):
    known, names = declared(f"{server.url}/good", f"{server.url}/good"), ("file0.bin", "file1.bin")
    folder = known.find(None, names)
    assert folder.as_posix() == "data/wikipedia"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == dict.fromkeys(names, CONTENT)
    (line,) = capsys.readouterr().out.splitlines()
    for part in (", ".join(names), "0.1 MB", "data/wikipedia", "free for all", "Nobody, 1999"):
        assert part in line
    known.find(None, names, offline=True)
    assert capsys.readouterr().out == ""


def test_only_missing_and_needed_files_are_fetched_and_those_before_a_failure_stay(server, nowhere):
    known = declared(f"{server.url}/good", f"{server.url}/good", f"{server.url}/absent")
    known.find(None, ("file0.bin",))
    with pytest.raises(DataMissing):
        known.find(None, ("file0.bin", "file1.bin", "file2.bin"))
    assert sorted(path.name for path in (nowhere / "data" / "wikipedia").iterdir()) == ["file0.bin", "file1.bin"]
    assert server.asked == 3


def test_offline_forbids_fetching(nowhere):
    with pytest.raises(DataMissing, match=r"offline=True forbids fetching it.* Get it from http.* get wikipedia"):
        _ = Wikipedia(offline=True).data
    assert list(nowhere.iterdir()) == []


def test_named_root_is_never_fetched_into(server, nowhere, monkeypatch):
    known = declared(f"{server.url}/good")
    for root in (nowhere, None):
        with pytest.raises(DataError, match=r"file0\.bin is missing") as error:
            known.find(root, ("file0.bin",))
        assert not isinstance(error.value, DataMissing)
        monkeypatch.setenv("CSD_DATA", str(nowhere))
    assert server.asked == 0


# The command --------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(server, monkeypatch, tmp_path) -> Path:
    """Three files of the data set "wikipedia" on the server; the folder they belong into, under a root not yet made."""
    monkeypatch.setitem(DATASETS, "wikipedia", declared(*[f"{server.url}/good"] * 3))
    return tmp_path / "root" / "wikipedia"


def get(folder: Path, dataset: str = "wikipedia") -> int:
    return main(["get", dataset, "--data-root", str(folder.parent)])


def test_the_command_fetches_every_file_whatever_becomes_of_others_and_then_none(served, server, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setitem(DATASETS, "wikipedia", declared(f"{server.url}/absent", *[f"{server.url}/good"] * 2))
        assert get(served) == 1
    assert sorted(path.name for path in served.iterdir()) == ["file1.bin", "file2.bin"]
    said = capsys.readouterr().out
    assert f"FAILED   {served / 'file0.bin'}" in said
    assert "1 of 3 file(s) missing" in said
    assert "licence: free for all; cite Nobody, 1999" in said
    assert get(served) == 0
    assert {path.name: path.read_bytes() for path in served.iterdir()} == {f"file{i}.bin": CONTENT for i in range(3)}
    said = capsys.readouterr().out
    assert (said.count("fetched "), said.count("ok ")) == (1, 2)
    assert server.asked == 4


@pytest.mark.parametrize("dataset", sorted(name for name, declaration in DATASETS.items() if not declaration.files))
def test_what_is_not_published_as_fixed_files_is_explained(dataset, tmp_path, capsys):
    assert get(tmp_path / "any", dataset) == 1
    said = capsys.readouterr().out
    assert DATASETS[dataset].url in said
    assert DATASETS[dataset].content in said
    assert list(tmp_path.iterdir()) == []
