"""Whole-gallery retrieval metrics against those of torchmetrics, and exact ones on a gallery of a million."""

from __future__ import annotations

import cProfile
import pstats
import statistics
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP

from benchmarks import fresh
from benchmarks.harness import Record, Target, agree, attempt
from benchmarks.roofline import COPY, WIDE_PRODUCT, Ceilings, Part, add_floor, named_shares, sorted_keys
from lightning_modules.metrics import CrossModalRetrieval
from reproduce.measures import device, median_seconds

NAME = "retrieval"
ABOUT = """MAP and R@1, 5 and 10 of every query against the whole gallery: CrossModalRetrieval, which keeps embeddings
and ranks in chunks, and the metrics of torchmetrics, which keep every pair of query and item and loop over the queries.
torchmetrics is given cosines shifted to 0..1, for it takes what is not positive as irrelevant, by 500 queries at a
time, and its four metrics share one state (MetricCollection); CrossModalRetrieval also returns P@k, MAP@k and MedR.
Both are given unit-free float32 embeddings with a class structure, and their four numbers have to agree. Memory is the
peak of a fresh process above its imports, embeddings included. The million is ranked exactly, not by an index. The
floor is that of ranking every pair: cosines in float64, which order does not change, keys, and a sort of every row."""
KS = (1, 5, 10)
TOLERANCE = 1e-6
BLOCK = 50_000
PEER_CHUNK = 500
OURS, PEER = "CrossModalRetrieval (ours)", "torchmetrics"
SIZES = [{"queries": 5_000, "items": 5_000}, {"queries": 500, "items": 100_000}]
SCALES: dict[str, dict[str, Any]] = {
    "quick": {"sizes": SIZES, "repeats": 2, "dim": 256, "classes": 1_000, "runs": 1},
    "paper": {"sizes": SIZES, "repeats": 7, "dim": 256, "classes": 1_000, "runs": 5},
}
LARGE = {
    "cpu": {"queries": 1_000, "items": 1_000_000, "dim": 256, "classes": 10_000},
    "cuda": {"queries": 10_000, "items": 1_000_000, "dim": 256, "classes": 10_000},
}
FASTER, SMALLER, LARGE_BYTES = 10, 10, 2e9

Blocks = list[tuple[Tensor, Tensor, Tensor]]
Scores = dict[str, float]


def draw(count: int, dim: int, classes: int, seed: int) -> Blocks:
    """Items around the centres of their classes, as blocks of embeddings (b, dim), labels (b,) and ids (b,).

    Args:
        count: items.
        dim: width.
        classes: item i is of class i modulo this; their centres are the same for every seed.
        seed: of the items.
    """
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for start in range(0, count, BLOCK):
        ids = torch.arange(start, min(start + BLOCK, count))
        rows = torch.randn(len(ids), dim, generator=generator).mul_(2).add_(centres[ids % classes])
        blocks.append((rows.to(device()), (ids % classes).to(device()), ids.to(device())))
    return blocks


def by_ours(query: Blocks, gallery: Blocks) -> Scores:
    """MAP and R@k by the metric of this suite."""
    metric = CrossModalRetrieval([("query", "gallery")], ks=KS).to(device())
    for modality, blocks in (("query", query), ("gallery", gallery)):
        for rows, labels, ids in blocks:
            metric.update({modality: rows}, labels, ids)
    found = metric.compute()
    return {name: float(found[f"query->gallery/{name}"]) for name in ("MAP", *(f"R@{k}" for k in KS))}


def by_torchmetrics(query: Blocks, gallery: Blocks) -> Scores:
    """MAP and R@k by the metrics of torchmetrics."""
    hits = {f"R@{k}": RetrievalHitRate(top_k=k) for k in KS}
    metrics = MetricCollection({"MAP": RetrievalMAP(), **hits}).to(device())
    items = F.normalize(torch.cat([rows for rows, _, _ in gallery]), dim=1)
    item_labels = torch.cat([labels for _, labels, _ in gallery])
    for block, labels, ids in query:
        for part in torch.arange(len(block), device=block.device).split(PEER_CHUNK):
            cosine = F.normalize(block[part], dim=1) @ items.T
            relevant = labels[part, None] == item_labels
            metrics.update((1 + cosine) / 2, relevant, ids[part, None].expand_as(cosine))
    return {name: float(value) for name, value in metrics.compute().items()}


CONTESTANTS = {OURS: by_ours, PEER: by_torchmetrics}


def run_once(contestant: str, queries: int, items: int, dim: int, classes: int) -> dict[str, Any]:
    """Draw the embeddings, score them, and say how long the scoring took: what a fresh process does."""
    query, gallery = draw(queries, dim, classes, 1), draw(items, dim, classes, 2)
    start = time.perf_counter()
    scores = CONTESTANTS[contestant](query, gallery)
    return {"seconds": time.perf_counter() - start, "scores": scores}


def measure(record: Record, scale: str, ceilings: Ceilings) -> None:
    """Measure both contestants at the shared sizes, and ours on the large gallery."""
    settings = SCALES[scale]
    shape = {"dim": settings["dim"], "classes": settings["classes"]}
    for size in settings["sizes"]:
        _compare({**size, **shape}, settings["repeats"], record)
        _add_floor(record, {**size, **shape}, ceilings)
    large = LARGE[device().type]
    found, reason = attempt(
        lambda: fresh.measure("retrieval:run_once", {"contestant": OURS, **large}, runs=settings["runs"])
    )
    seconds = statistics.median(run["seconds"] for run in found["runs"]) if found else None
    record.add(NAME, OURS, _words(large), "seconds", seconds, note=reason)
    record.add(NAME, OURS, _words(large), "peak MiB", found and found["peak MiB"], note=reason)
    _add_floor(record, large, ceilings)


def _words(size: dict[str, int]) -> str:
    return f"{size['queries']:,} queries, {size['items']:,} items, D = {size['dim']}"


def _compare(size: dict[str, int], repeats: int, record: Record) -> None:
    words, scores = _words(size), {}
    for contestant in CONTESTANTS:
        found, reason = attempt(lambda who=contestant: fresh.measure("retrieval:run_once", {"contestant": who, **size}))
        record.add(NAME, contestant, words, "peak MiB", found and found["peak MiB"], note=reason)
        if found:
            scores[contestant] = found["runs"][0]["scores"]
        else:
            record.add(NAME, contestant, words, "seconds", None, note=reason)
    if len(scores) == len(CONTESTANTS):
        difference, reason = attempt(lambda: compare(scores[OURS], scores[PEER]))
        record.add(NAME, PEER, words, "difference", difference, note=reason or "largest of MAP and R@k from ours")
        if difference is None:
            del scores[PEER]
            record.add(NAME, PEER, words, "seconds", None, note=reason)
    query = draw(size["queries"], size["dim"], size["classes"], 1)
    gallery = draw(size["items"], size["dim"], size["classes"], 2)
    steps = {name: lambda name=name: CONTESTANTS[name](query, gallery) for name in scores}
    for contestant, seconds in median_seconds(steps, repeats).items():
        record.add(NAME, contestant, words, "seconds", seconds)
    if PEER in scores:
        record.ratio(NAME, PEER, OURS, words, "seconds")
        record.ratio(NAME, PEER, OURS, words, "peak MiB")


def compare(ours: Scores, theirs: Scores) -> float:
    """Largest difference of two sets of scores; refused with a Disagreement beyond ``TOLERANCE``."""
    difference = max(abs(ours[name] - theirs[name]) for name in ours)
    return agree(f"MAP or R@k of {PEER} and of {OURS}", difference, TOLERANCE)


def _add_floor(record: Record, size: dict[str, int], ceilings: Ceilings) -> None:
    pairs = size["queries"] * size["items"]
    ceilings = {**ceilings, "sort": sorted_keys(record, size["items"])}
    parts = [
        Part("products in float64", {WIDE_PRODUCT: 2 * pairs * size["dim"]}),
        Part("keys written and read", {COPY: 8 * pairs}),
        Part("sorting", {"sort": pairs}),
    ]
    spent = {OURS: where_time_goes(size) if size["items"] < BLOCK else ""}
    add_floor(record, NAME, _words(size), parts, ceilings, spent, metric="seconds")


def where_time_goes(size: dict[str, int]) -> str:
    """Shares of the functions of our metric, by Python's profiler."""
    query = draw(size["queries"], size["dim"], size["classes"], 1)
    gallery = draw(size["items"], size["dim"], size["classes"], 2)
    profiler = cProfile.Profile()
    start = time.perf_counter()
    profiler.runcall(by_ours, query, gallery)
    seconds = time.perf_counter() - start
    own: dict[str, float] = {}
    for (_, _, function), (_, _, itself, _, _) in pstats.Stats(profiler).stats.items():
        name = function.removeprefix("<method '").removeprefix("<built-in method ").split("'")[0].rstrip(">")
        own[name] = own.get(name, 0.0) + itself
    return named_shares(own.items(), seconds)


def targets(record: Record) -> list[Target]:
    """Ten times as fast as torchmetrics in a tenth of its memory; a million items in 2 GB."""
    found = []
    for row in [row for row in record.rows if row.split == NAME and row.method == PEER and row.metric == "peak MiB"]:
        time_ratio = record.value(NAME, PEER, row.features, "time ratio")
        memory_ratio = record.value(NAME, PEER, row.features, "memory ratio")
        found.append(Target(f"{row.features}: times as fast as {PEER}, at least {FASTER}", time_ratio, FASTER))
        found.append(Target(f"{row.features}: memory of {PEER} over ours, at least {SMALLER}", memory_ratio, SMALLER))
    words = _words(LARGE[device().type])
    peak = record.value(NAME, OURS, words, "peak MiB")
    asked = f"{words}, exact: peak above imports in GB, at most {LARGE_BYTES / 1e9:g}"
    return [*found, Target(asked, peak and peak * 2**20 / 1e9, LARGE_BYTES / 1e9, at_least=False)]
