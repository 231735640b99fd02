"""The data root, missing files, and fetching from a server on this machine."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from datamodules import DataError, DataMissing, Wikipedia
from datamodules.files.sources import (
    SOURCES,
    Source,
    SourceFile,
    data_root,
    fetch,
    locate,
    missing_files,
    root_is_named,
    sha256_of,
)

CONTENT = b"feature " * 5000


class Handler(BaseHTTPRequestHandler):
    """/good: the content; /wrong: other bytes of the same length; /broken: half of it; anything else: 404."""

    def do_GET(self):
        name = self.path.rsplit("/", 1)[-1]
        if name not in ("good", "wrong", "broken"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        body = {"good": CONTENT, "wrong": CONTENT[::-1], "broken": CONTENT[: len(CONTENT) // 2]}[name]
        self.wfile.write(body)

    def log_message(self, *arguments):
        """Keep the test's output free of access lines."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """An empty current directory with no data root named."""
    monkeypatch.delenv("CSD_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source(*urls: str) -> Source:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    files = tuple(
        SourceFile(f"file{i}.bin", "forty kilobytes", url, sha256, len(CONTENT)) for i, url in enumerate(urls)
    )
    return Source("wikipedia", files, licence="free for all", citation="Nobody, 1999")


def served_wikipedia(monkeypatch, *urls: str) -> None:
    monkeypatch.setitem(SOURCES, "wikipedia", source(*urls))


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


def test_named_root_that_is_missing_or_a_file_is_an_error(nowhere, monkeypatch):
    (nowhere / "file").write_text("")
    with pytest.raises(DataError, match="the data root, does not exist"):
        data_root(nowhere / "nowhere")
    with pytest.raises(DataError, match="the data root, is not a folder"):
        data_root(str(nowhere / "file"))
    monkeypatch.setenv("CSD_DATA", str(nowhere / "nowhere"))
    with pytest.raises(DataError, match="CSD_DATA, does not exist"):
        data_root()
    monkeypatch.setenv("CSD_DATA", str(nowhere / "file"))
    with pytest.raises(DataError, match="CSD_DATA, is not a folder"):
        data_root()
    monkeypatch.delenv("CSD_DATA")
    (nowhere / "data").write_text("")
    with pytest.raises(DataError, match="default data root, is not a folder"):
        data_root()


def test_missing_files_are_listed(nowhere):
    names = [file.name for file in SOURCES["wikipedia"].files]
    (nowhere / "wikipedia").mkdir()
    (nowhere / "wikipedia" / names[0]).write_text("")
    assert [file.name for file in missing_files("wikipedia", nowhere)] == names[1:]
    assert [file.name for file in missing_files("wikipedia", nowhere, names[:2])] == names[1:2]


def test_every_source_is_described():
    for dataset, known in SOURCES.items():
        assert known.dataset == dataset
        assert known.licence
        assert known.citation
        for file in known.files:
            assert re.fullmatch(r"https://\S+/[0-9a-f]{40}/\S+", file.url), "pinned to a commit"
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert file.size > 0
            assert known.file(file.name) is file


def test_file_that_cannot_be_read_is_named(nowhere):
    with pytest.raises(DataError, match="cannot be read"):
        sha256_of(nowhere)


# Fetching -----------------------------------------------------------------------------------------------------------


def test_fetched_files_are_whole_and_announced_in_one_line(server, nowhere, monkeypatch, capsys):
    served_wikipedia(monkeypatch, f"{server}/good", f"{server}/good")
    folder = locate("wikipedia")
    assert folder.as_posix() == "data/wikipedia"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"file0.bin": CONTENT, "file1.bin": CONTENT}
    (line,) = capsys.readouterr().out.splitlines()
    for part in ("file0.bin, file1.bin", "0.1 MB", server, "data/wikipedia", "free for all", "Nobody, 1999"):
        assert part in line
    locate("wikipedia", offline=True)
    assert capsys.readouterr().out == ""


def test_only_missing_and_needed_files_are_fetched(server, nowhere, monkeypatch):
    served_wikipedia(monkeypatch, f"{server}/absent", f"{server}/good", f"{server}/absent")
    (nowhere / "data" / "wikipedia").mkdir(parents=True)
    (nowhere / "data" / "wikipedia" / "file0.bin").write_bytes(CONTENT)
    locate("wikipedia", names=("file0.bin", "file1.bin"))
    assert sorted(path.name for path in (nowhere / "data" / "wikipedia").iterdir()) == ["file0.bin", "file1.bin"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("wrong", "other bytes than expected"),
        ("broken", "IncompleteRead|ChunkedEncodingError"),
        ("absent", "HTTPError: 404"),
    ],
)
def test_failed_transfer_leaves_nothing_behind(server, nowhere, path, reason):
    known = source(f"{server}/{path}")
    with pytest.raises(DataMissing, match=f"file0.bin could not be fetched .*({reason})") as error:
        fetch(known, known.files, nowhere / "data" / "wikipedia")
    assert known.files[0].url in str(error.value)
    assert "python -m datamodules check wikipedia" in str(error.value)
    assert list(nowhere.iterdir()) == []


def test_failed_transfer_keeps_the_files_before_it(server, nowhere):
    known = source(f"{server}/good", f"{server}/wrong")
    with pytest.raises(DataMissing):
        fetch(known, known.files, nowhere / "data" / "wikipedia")
    assert [path.name for path in (nowhere / "data" / "wikipedia").iterdir()] == ["file0.bin"]


def test_unreachable_server_is_an_error_that_names_the_remedy(nowhere, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/good"
        served_wikipedia(monkeypatch, url)
        with pytest.raises(DataMissing, match=r"could not be fetched \(no connection to 127.0.0.1:\d+\)") as error:
            locate("wikipedia")
    assert url in str(error.value)
    assert list(nowhere.iterdir()) == []


def test_offline_forbids_fetching(nowhere):
    with pytest.raises(DataMissing, match=r"offline=True forbids fetching it. .*Get it from https://"):
        _ = Wikipedia(offline=True).data
    assert list(nowhere.iterdir()) == []


def test_named_root_is_never_fetched_into(server, nowhere, monkeypatch):
    served_wikipedia(monkeypatch, f"{server}/good")
    with pytest.raises(DataError, match=r"file0\.bin is missing") as error:
        locate("wikipedia", nowhere)
    assert not isinstance(error.value, DataMissing)
    monkeypatch.setenv("CSD_DATA", str(nowhere))
    with pytest.raises(DataError, match=r"file0\.bin is missing"):
        locate("wikipedia")
    assert list(nowhere.iterdir()) == []


def test_other_copy_of_a_file_draws_a_warning(nowhere, monkeypatch):
    known = source("http://127.0.0.1/good")
    monkeypatch.setitem(SOURCES, "wikipedia", known)
    (nowhere / "wikipedia").mkdir()
    (nowhere / "wikipedia" / "file0.bin").write_bytes(CONTENT[1:])
    with pytest.warns(UserWarning, match="file0.bin is not the known copy") as record:
        locate("wikipedia", nowhere)
    assert "\n" not in str(record[0].message)
