"""The joint space as a picture: one projection fitted to all modalities together, matched items joined by lines."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection
from sklearn.manifold import TSNE
from sklearn.preprocessing import normalize

from reproduce.report.figures import STYLE, save_figure

MOST_ITEMS = 430


def draw_projection(panels: Mapping[str, Mapping[str, np.ndarray]], path: Path, title: str) -> Path:
    """Draw the embeddings of a test set in two dimensions, one panel per model.

    Unit vectors of all modalities of a model go through one t-SNE (perplexity 30, fixed seed); one fit per modality
    would say nothing about how modalities lie to each other. An item's modalities are joined by a thin line, its first
    entry standing for a modality with several.

    Args:
        panels: heading -> embeddings: modality -> (n, D), with "item/<modality>" -> (n,), as a finished run keeps
            them. The items are the same in all.
        path: the PNG to write.
        title: the title of the picture.

    Returns:
        ``path``.

    Source: van der Maaten and Hinton, JMLR 9, 2008.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(7 * len(panels), 7), layout="constrained", squeeze=False)
    for place, (heading, embeddings) in zip(axes[0], panels.items(), strict=True):
        modalities = _draw_panel(place, embeddings)
        place.set_title(heading)
    figure.suptitle(title)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(modalities), frameon=False, markerscale=2)
    return save_figure(figure, path)


def _draw_panel(axes: plt.Axes, embeddings: Mapping[str, np.ndarray]) -> list[str]:
    modalities = [name.removeprefix("item/") for name in embeddings if name.startswith("item/")]
    items = np.unique(embeddings[f"item/{modalities[0]}"])
    if len(items) > MOST_ITEMS:
        items = np.sort(np.random.default_rng(0).permutation(items)[:MOST_ITEMS])
    # Owners ascend: the row of an item's first entry.
    rows = [normalize(embeddings[name][np.searchsorted(embeddings[f"item/{name}"], items)]) for name in modalities]
    stacked = np.concatenate(rows)
    placed = TSNE(perplexity=min(30, len(stacked) // 4), init="pca", random_state=0).fit_transform(stacked)
    points = np.split(placed, len(modalities))
    for first, second in zip(points, [*points[1:], points[0]], strict=True):
        axes.add_collection(LineCollection(np.stack([first, second], axis=1), colors="0.6", linewidths=0.3, zorder=1))
    for name, x, (colour, marker) in zip(modalities, points, STYLE, strict=False):
        axes.scatter(*x.T, s=12, c=colour, marker=marker, linewidths=0, alpha=0.8, label=name, zorder=2)
    axes.set_axis_off()
    return modalities
