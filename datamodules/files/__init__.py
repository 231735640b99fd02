"""Readers of file formats, and the cache."""
