"""``python -m lightning_modules`` is ``csd``."""

from lightning_modules.cli import main

main()
