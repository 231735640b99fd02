"""Data sets: a YAML file declares the files, sizes, source and terms of each, a Python file turns files into items."""

from pathlib import Path

from datamodules.declaration import Declaration

DATASETS = {path.stem: Declaration.read(path) for path in sorted(Path(__file__).parent.glob("*.yaml"))}
