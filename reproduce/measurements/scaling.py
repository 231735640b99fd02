"""What alignment costs as modalities are added: time, memory and matrices of circular and of pairwise losses."""

import math
import statistics
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator
from scipy.stats import linregress
from torch import Tensor

from datamodules import SyntheticItems
from lightning_modules import LAVIMO
from losses import AlignmentLoss, GCSLoss, build_loss
from losses.gcs import edge_sets
from reproduce.measurements.measures import Measured, command, device, epoch_seconds, measured, median_seconds
from reproduce.report.figures import STYLE, frame, save_figure
from reproduce.report.markdown import markdown_table
from reproduce.results.metrics import METRICS
from reproduce.results.schema import Row

TITLE = "Cost of alignment against the number of modalities"
SETTINGS = {"modalities": [2, 3, 4, 5, 6, 7, 8], "batch": 128, "dim": 128, "classes": 16}
SCALES = {
    "quick": {"repeats": 50, "fits": 4, "epochs": 8},
    "paper": {"repeats": 500, "fits": 20, "epochs": 10},
}
LOSSES: dict[str, dict[str, Any]] = {
    "GCS clockwise": {"name": "gcs", "scheme": "clockwise"},
    "GCS bidirectional": {"name": "gcs", "scheme": "bidirectional"},
    "GCS mixed": {"name": "gcs", "scheme": "mixed"},
    "pairwise KL": {"name": "pairwise", "divergence": "kl"},
    "pairwise CS": {"name": "pairwise", "divergence": "cs"},
}
TRAINED = ("GCS bidirectional", "pairwise KL")
STEP_METRICS = ("seconds/step", "saved MiB", "similarity matrices", "matching matrices")
DRAWN = {
    "seconds/step": "seconds per step of the loss",
    "saved MiB": "MiB kept for the backward pass",
    "seconds/epoch": "seconds per training epoch",
}

TEXT = f"""Does a circular loss of M modalities cost O(M), and a pairwise one O(M^2)? Measured on a batch of
{SETTINGS["batch"]} items, {SETTINGS["dim"]}-d embeddings, {SETTINGS["classes"]} classes.

- seconds/step: forward and backward of the loss alone, median; the losses take turns.
- saved MiB: what autograd keeps from the forward pass until the backward pass, besides the embeddings, every storage
  counted once; exact.
- similarity matrices: products of embeddings; one serves both directions of a pair.
- matching matrices: softmax distributions over a similarity matrix, which every directed edge has.
- seconds/epoch: training of LAVIMO on {{items}} synthetic items, encoders of precomputed features, median over epochs.
- exponent: slope b of the least-squares line log y = a + b log M over all M; standard error: of that slope. The
  exponents of the matrices say what to expect at so few modalities: M(M - 1) grows faster than M^2 from 2 to 8. A fixed
  overhead per step lowers the fitted exponents of time.

{{findings}}"""

Measures = dict[tuple[str, str], dict[int, float]]  # metric and method -> number of modalities -> value


def measure(scale: Mapping[str, int], columns: Mapping[str, str]) -> Measured:
    """The table, with so many "repeats" of a timed step, and "fits" of so many "epochs"."""
    counts = SETTINGS["modalities"]
    measures = loss_measures(counts, scale["repeats"]) | training_measures(counts, scale["fits"], scale["epochs"])
    items = len(SyntheticItems(validation_fraction=0.0).indices("train"))
    text = TEXT.format(items=items, findings=_findings(measures))
    return _rows(measures, {**columns, "seeds": "0"}), text, partial(draw, measures)


def loss_measures(counts: list[int], repeats: int) -> Measures:
    """Of the losses alone."""
    measures: Measures = {key: {} for key in product(STEP_METRICS, LOSSES)}
    steps = {}
    for method, modalities in product(LOSSES, counts):
        loss = build_loss(**LOSSES[method])
        embeddings, labels = draw_inputs(modalities)
        found = (saved_bytes(loss, embeddings, labels) / 2**20, *matrices(loss, tuple(embeddings)))
        for metric, value in zip(STEP_METRICS[1:], found, strict=True):
            measures[metric, method][modalities] = value
        steps[method, modalities] = lambda step=(loss, embeddings, labels): _step(*step)
    for (method, modalities), seconds in median_seconds(steps, repeats).items():
        measures["seconds/step", method][modalities] = seconds
    return measures


def draw_inputs(modalities: int) -> tuple[dict[str, Tensor], Tensor]:
    """Embeddings (batch, dim) that need a gradient, by modality, and their labels."""
    generator = torch.Generator().manual_seed(0)
    shape = (SETTINGS["batch"], SETTINGS["dim"])
    embeddings = {name: torch.randn(shape, generator=generator).to(device()) for name in _names(modalities)}
    labels = torch.arange(SETTINGS["batch"], device=device()) % SETTINGS["classes"]
    return {name: x.requires_grad_() for name, x in embeddings.items()}, labels


def _names(modalities: int) -> list[str]:
    return [f"m{number}" for number in range(1, modalities + 1)]


def _step(loss: AlignmentLoss, embeddings: Mapping[str, Tensor], labels: Tensor) -> None:
    torch.autograd.grad(loss(embeddings, labels).total, list(embeddings.values()))


def matrices(loss: AlignmentLoss, modalities: tuple[str, ...]) -> tuple[int, int]:
    """Similarity and matching matrices that a loss computes: circular, or pairwise."""
    if isinstance(loss, GCSLoss):
        sets = edge_sets(modalities, loss.scheme)
        return len(modalities), len(modalities) * len(sets)
    pairs = math.comb(len(modalities), 2)
    return pairs, 2 * pairs


def saved_bytes(loss: AlignmentLoss, embeddings: Mapping[str, Tensor], labels: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass, besides the embeddings; every storage counts once."""
    given = {x.untyped_storage().data_ptr() for x in embeddings.values()}
    held = weakref.WeakSet()  # what is dropped on the way leaves it, and its address may return

    def keep(tensor: Tensor) -> Callable[[], Tensor]:
        held.add(one := lambda: tensor)
        return one

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one()):
        output = loss(embeddings, labels)
    storages = [one().untyped_storage() for one in held]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    del output  # until here it holds what was saved
    return sum(size for address, size in sizes.items() if address not in given)


def training_measures(counts: list[int], fits: int, epochs: int) -> Measures:
    """Median seconds of a training epoch; the first epoch of a fit does not count."""
    seconds: dict[tuple[str, int], list[float]] = {}
    for _, modalities, method in product(range(fits), counts, TRAINED):
        L.seed_everything(0, verbose=False)
        data = SyntheticItems(_names(modalities), validation_fraction=0.0)
        features = {name: {"name": "features"} for name in data.dims}
        model = LAVIMO(data.dims, features, alignment=build_loss(**LOSSES[method]))
        seconds.setdefault((method, modalities), []).extend(epoch_seconds(model, data, epochs)[0])
    medians = {key: statistics.median(found) for key, found in seconds.items()}
    return {("seconds/epoch", method): {m: medians[method, m] for m in counts} for method in TRAINED}


def exponent(by_count: Mapping[int, float]) -> tuple[float, float]:
    """Slope b of log y = a + b log M, and its standard error.

    Args:
        by_count: M -> y > 0, for at least three M.
    """
    fit = linregress(np.log(list(by_count)), np.log(list(by_count.values())))
    return float(fit.slope), float(fit.stderr)


def _rows(measures: Measures, shared: Mapping[str, Any]) -> list[Row]:
    rows, slopes = [], []
    for (metric, method), by_count in measures.items():
        columns = {"method": method, "dataset": "random embeddings", "features": f"{SETTINGS['dim']}-d", **shared}
        if metric == "seconds/epoch":
            columns |= {"dataset": SyntheticItems.dataset, "features": SyntheticItems.features}
        rows += [measured(metric, value, condition=f"M = {m}", **columns) for m, value in by_count.items()]
        for name, value in zip(("exponent", "standard error"), exponent(by_count), strict=True):
            slopes.append(measured(name, value, condition=metric, **columns))
    return rows + slopes


def _findings(measures: Measures) -> str:
    """Circular against pairwise: exponents, and the cost at the most modalities."""
    circular, pairwise = TRAINED
    most = max(measures["seconds/epoch", circular])
    lines = [["", f"{circular}: exponent", f"M = {most}", f"{pairwise}: exponent", f"M = {most}", "ratio"]]
    for metric in dict.fromkeys(metric for metric, _ in measures):
        cells = [metric]
        for method in TRAINED:
            slope, error = exponent(measures[metric, method])
            cells += [f"{slope:.2f} ± {error:.2f}", METRICS[metric].text(measures[metric, method][most])]
        lines.append([*cells, f"{measures[metric, pairwise][most] / measures[metric, circular][most]:.1f}"])
    return markdown_table(lines)


def draw(measures: Measures, path: Path) -> None:
    """Draw time and memory against the number of modalities, both logarithmic, with the fitted exponents.

    Args:
        measures: the measures.
        path: the PNG.
    """
    figure, grid = plt.subplots(1, len(DRAWN), figsize=(4.4 * len(DRAWN), 4.6), layout="constrained")
    for axes, metric in zip(grid, DRAWN, strict=True):
        _draw_panel(axes, metric, {method: found for (name, method), found in measures.items() if name == metric})
    figure.suptitle(TITLE)
    save_figure(figure, path)


def _draw_panel(axes: Axes, metric: str, methods: Mapping[str, Mapping[int, float]]) -> None:
    for method, by_count in methods.items():
        colour, marker = STYLE[list(LOSSES).index(method)]
        slope, error = exponent(by_count)
        label = f"{method}, M^{slope:.2f} ± {error:.2f}"
        axes.plot(*zip(*by_count.items(), strict=True), color=colour, marker=marker, linewidth=1.2, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    counts = list(next(iter(methods.values())))
    axes.set_xticks(counts, map(str, counts))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.minorticks_off()
    axes.set_xlabel("modalities M")
    axes.set_ylabel(DRAWN[metric])
    frame(axes)
    axes.legend(frameon=False, fontsize=8)


main = partial(
    command, "scaling", TITLE, SCALES, {"settings": SETTINGS, "losses": LOSSES, "trained": list(TRAINED)}, measure
)
