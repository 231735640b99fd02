"""Downloads that break off, lie or bring other bytes, from a server on this machine; and the command `get`."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from datamodules import get
from datamodules.datasets.catalogue import CATALOGUE
from datamodules.files.download import ATTEMPTS, CHUNK, DownloadError, download, part_of
from datamodules.files.sources import SOURCES, Source, SourceFile

CONTENT = np.random.default_rng(0).bytes(700_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SIZE = len(CONTENT)


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's `script` says, one step per request; the last step is repeated.

    A step is a status, and of a status 200: how many bytes are sent before the connection is closed ("until"), the
    bytes ("body"), the stated length ("length"), whether a range is honoured ("ranges") and by how much it is missed
    ("shift"), and whether the connection is held open after the last byte ("hold").
    """

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        script = self.server.script
        step = {"status": 200, "until": SIZE, "body": CONTENT, "ranges": True} | script[0]
        if len(script) > 1:
            script.pop(0)
        if step["status"] != 200:
            self.send_error(step["status"])
            return
        body, start = step["body"], 0
        if asked and step["ranges"]:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) + step.get("shift", 0)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(step.get("length", len(body) - start)))
        self.end_headers()
        self.wfile.write(body[start : max(start, step["until"])])
        if step.get("hold"):
            self.server.hold.wait()

    def log_message(self, *arguments):
        """Keep the test's output free of access lines."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("datamodules.files.download.FIRST_WAIT", 0)
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.script, running.asked, running.hold = [{}], [], threading.Event()
    running.url = f"http://127.0.0.1:{running.server_port}/file"
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def fetch(server, path: Path) -> bool:
    return download(server.url, path, SHA256, SIZE)


def assert_fetched(path: Path) -> None:
    """The file is there, and nothing else."""
    assert path.read_bytes() == CONTENT
    assert list(path.parent.iterdir()) == [path]


# One file -----------------------------------------------------------------------------------------------------------


def test_a_whole_transfer_is_one_request(server, tmp_path):
    assert fetch(server, tmp_path / "new" / "file")
    assert_fetched(tmp_path / "new" / "file")
    assert server.asked == [None]


def test_a_good_file_is_not_touched_and_nothing_is_asked(server, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    os.utime(path, ns=(1, 1))
    before = path.stat()
    assert not fetch(server, path)
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert server.asked == []
    assert list(tmp_path.iterdir()) == [path]


def test_a_transfer_that_breaks_off_is_continued_in_the_same_call(server, tmp_path):
    server.script = [{"until": 4 * CHUNK}, {"until": 7 * CHUNK}, {}]
    assert fetch(server, tmp_path / "file")
    assert_fetched(tmp_path / "file")
    assert server.asked == [None, f"bytes={4 * CHUNK}-", f"bytes={7 * CHUNK}-"]


def test_many_breaks_are_outlived_while_each_transfer_brings_something(server, tmp_path):
    server.script = [{"until": n} for n in range(70_000, SIZE, 70_000)] + [{}]
    assert len(server.script) > ATTEMPTS
    assert fetch(server, tmp_path / "file")
    assert_fetched(tmp_path / "file")


def test_the_next_call_continues_where_the_last_one_gave_up(server, tmp_path):
    server.script = [{"until": 4 * CHUNK}, {"status": 503}]
    with pytest.raises(DownloadError, match="503"):
        fetch(server, tmp_path / "file")
    assert part_of(tmp_path / "file").read_bytes() == CONTENT[: 4 * CHUNK]
    assert not (tmp_path / "file").exists()
    assert server.asked == [None] + [f"bytes={4 * CHUNK}-"] * ATTEMPTS
    server.script, server.asked = [{}], []
    assert fetch(server, tmp_path / "file")
    assert_fetched(tmp_path / "file")
    assert server.asked == [f"bytes={4 * CHUNK}-"]


@pytest.mark.parametrize(
    "step",
    [{"ranges": False}, {"shift": 10}, {"status": 416}],
    ids=["ignores ranges", "another range", "refuses the range"],
)
def test_a_server_that_does_not_continue_is_asked_for_the_whole(server, tmp_path, step):
    part_of(tmp_path / "file").write_bytes(CONTENT[:300_000])
    server.script = [step, {"ranges": False}]
    assert fetch(server, tmp_path / "file")
    assert_fetched(tmp_path / "file")
    assert server.asked[0] == "bytes=300000-"
    assert server.asked[1:] in ([], [None])


@pytest.mark.parametrize("length", [1000, SIZE, SIZE + 5])
def test_a_part_of_other_bytes_leads_to_a_start_from_the_first(server, tmp_path, length):
    part_of(tmp_path / "file").write_bytes(b"?" * length)
    assert fetch(server, tmp_path / "file")
    assert_fetched(tmp_path / "file")
    assert server.asked[-1] is None


def test_a_complete_part_needs_no_request(server, tmp_path):
    part_of(tmp_path / "file").write_bytes(CONTENT)
    assert fetch(server, tmp_path / "file")
    assert_fetched(tmp_path / "file")
    assert server.asked == []


@pytest.mark.parametrize("length", [1000, SIZE + 1000])
def test_the_stated_length_is_not_believed(server, tmp_path, length):
    server.script = [{"length": length}, {}]
    assert fetch(server, tmp_path / "file")
    assert_fetched(tmp_path / "file")


@pytest.mark.parametrize("body", [CONTENT[::-1], CONTENT + b"!", b"!" + CONTENT[1:]])
def test_wrong_bytes_are_refused_and_leave_nothing(server, tmp_path, body):
    server.script = [{"body": body, "until": len(body)}]
    with pytest.raises(DownloadError, match="other bytes than expected"):
        fetch(server, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    assert server.asked == [None]


def test_a_shorter_file_is_refused(server, tmp_path):
    server.script = [{"body": CONTENT[:-1]}, {"status": 416}, {"body": CONTENT[:-1]}]
    with pytest.raises(DownloadError, match=f"ended the transfer after {SIZE - 1} of {SIZE} bytes"):
        fetch(server, tmp_path / "file")


@pytest.mark.parametrize("status", [500, 502, 429])
def test_a_passing_fault_of_the_server_is_outlived(server, tmp_path, status):
    server.script = [{"status": status}] * (ATTEMPTS - 1) + [{}]
    assert fetch(server, tmp_path / "file")
    assert_fetched(tmp_path / "file")


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (500, ATTEMPTS)])
def test_a_lasting_refusal_is_said_and_leaves_nothing(server, tmp_path, status, requests):
    server.script = [{"status": status}]
    with pytest.raises(DownloadError, match=f"HTTPError: {status}"):
        fetch(server, tmp_path / "file")
    assert len(server.asked) == requests
    assert list(tmp_path.iterdir()) == []


def test_another_file_of_that_name_stays(server, tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="left as it is; move it away"):
        fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert server.asked == []


def test_threads_that_want_the_same_file_fetch_it_once(server, tmp_path):
    server.script = [{"until": 300_000}, {}]
    fetched = []
    threads = [threading.Thread(target=lambda: fetched.append(fetch(server, tmp_path / "file"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fetched) == [False, False, False, True]
    assert_fetched(tmp_path / "file")
    assert len(server.asked) == 2


@pytest.mark.slow
def test_a_killed_download_is_continued(server, tmp_path):
    """The process is killed when the first half of the file has reached the disk and the server sends no more."""
    server.script = [{"until": SIZE // 2, "hold": True}, {}]
    code = "from sys import argv; from pathlib import Path; from datamodules.files.download import download; "
    code += "download(argv[1], Path(argv[2]), argv[3], int(argv[4]))"
    part = part_of(tmp_path / "file")
    process = subprocess.Popen([sys.executable, "-c", code, server.url, str(tmp_path / "file"), SHA256, str(SIZE)])
    try:
        while not part.exists() or part.stat().st_size < 4 * CHUNK:
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
        server.hold.set()
    done = part.stat().st_size
    assert done < SIZE
    assert not (tmp_path / "file").exists()
    server.script, server.asked = [{}], []
    assert fetch(server, tmp_path / "file")
    assert_fetched(tmp_path / "file")
    assert server.asked[0] == f"bytes={done}-"


# The command --------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    get.add_parser(parser.add_subparsers())
    chosen = parser.parse_args(["get", *arguments])
    return chosen.func(chosen)


@pytest.fixture
def served(server, monkeypatch, tmp_path) -> Path:
    """Three files of the data set "wikipedia" on the server; the folder they belong into, under a root not yet made."""
    files = tuple(SourceFile(f"file{i}", "random bytes", server.url, SHA256, SIZE) for i in range(3))
    monkeypatch.setitem(SOURCES, "wikipedia", Source("wikipedia", files, "free for all", "Nobody, 1999"))
    return tmp_path / "root" / "wikipedia"


def test_the_command_fetches_every_file_and_then_none(served, server, capsys):
    assert run("wikipedia", "--data-root", str(served.parent)) == 0
    assert {path.name: path.read_bytes() for path in served.iterdir()} == {f"file{i}": CONTENT for i in range(3)}
    said = capsys.readouterr().out
    assert "licence: free for all; cite Nobody, 1999" in said
    assert said.count("fetched ") == 3
    assert run("wikipedia", "--data-root", str(served.parent)) == 0
    assert len(server.asked) == 3
    assert capsys.readouterr().out.count("ok ") == 3


def test_a_failure_does_not_keep_the_others_from_being_fetched(served, server, capsys):
    server.script = [{"status": 404}, {}]
    assert run("wikipedia", "--data-root", str(served.parent)) == 1
    assert sorted(path.name for path in served.iterdir()) == ["file1", "file2"]
    said = capsys.readouterr().out
    assert f"FAILED   {served / 'file0'} could not be fetched (HTTPError: 404" in said
    assert "1 of 3 file(s) missing. Run the same command again" in said
    assert run("wikipedia", "--data-root", str(served.parent)) == 0
    assert len(server.asked) == 4


def test_the_part_of_a_broken_transfer_is_kept_for_the_next_run(served, server, capsys):
    server.script = [{"until": 300_000}, {"status": 503}]
    assert run("wikipedia", "--data-root", str(served.parent)) == 1
    assert [path.name for path in served.iterdir()] == ["file0.part"]
    server.script = [{}]
    assert run("wikipedia", "--data-root", str(served.parent)) == 0
    assert sorted(path.name for path in served.iterdir()) == ["file0", "file1", "file2"]


@pytest.mark.parametrize("dataset", sorted(set(CATALOGUE) - set(SOURCES)))
def test_what_is_not_published_as_fixed_files_is_explained(dataset, tmp_path, capsys):
    assert run(dataset, "--data-root", str(tmp_path)) == 1
    said = capsys.readouterr().out
    assert CATALOGUE[dataset].url in said
    assert f"python -m datamodules check {dataset}" in said
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_is_a_file_is_refused(served, tmp_path, capsys):
    (tmp_path / "root").write_text("")
    assert run("wikipedia", "--data-root", str(tmp_path / "root")) == 1
    assert "FAILED" in capsys.readouterr().out
