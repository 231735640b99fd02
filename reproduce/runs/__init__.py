"""Runs: what a table asks to be trained, one training, where it is kept and where it is executed."""
