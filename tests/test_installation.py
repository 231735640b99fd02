"""The check of the installation: a module that shadows one of the packages is refused by name."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

import losses
from lightning_modules import check_installation


def test_a_folder_without_init_is_refused_by_name(monkeypatch):
    stray = types.ModuleType("losses")
    stray.__file__ = None
    monkeypatch.setitem(sys.modules, "losses", stray)
    with pytest.raises(ImportError, match=r"'losses' .* a folder without __init__\.py"):
        check_installation()
    monkeypatch.undo()
    assert sys.modules["losses"] is losses


@pytest.mark.parametrize(("stray", "module"), [("losses.py", "reproduce"), ("reproduce.py", "lightning_modules")])
def test_a_stray_file_in_the_working_directory_is_refused(stray, module, tmp_path):
    (tmp_path / stray).write_text("")
    words = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert str(tmp_path / stray) in done.stderr
    assert "rename what shadows it" in done.stderr
