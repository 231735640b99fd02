"""Lightning modules of the retrieval models, their metrics and their command line."""

from lightning_modules.jfse import JFSE

__all__ = ["JFSE"]
