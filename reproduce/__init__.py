"""Regenerating the paper's tables, and comparing them with published numbers."""

import lightning_modules  # noqa: F401  (checks first that the four packages lie side by side)
