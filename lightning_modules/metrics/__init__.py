"""Evaluation of cross-modal retrieval: ranking, protocols and the metric that a module updates."""

from lightning_modules.metrics.items import standardise
from lightning_modules.metrics.ranking import retrieval_scores
from lightning_modules.metrics.retrieval import PROTOCOLS, CrossModalRetrieval

__all__ = ["PROTOCOLS", "CrossModalRetrieval", "retrieval_scores", "standardise"]
