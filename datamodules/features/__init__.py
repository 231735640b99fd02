"""Frozen networks: entries of a modality to features, computed once."""
