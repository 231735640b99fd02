"""Plain NumPy float64 references of the divergences and the losses, written from their formulas."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.linalg import logm

JFSE_SIGMAS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 5, 10, 15, 20, 25, 30, 35, 100, 1e3, 1e4, 1e5, 1e6)

START = float(np.exp(np.float64(np.float32(np.log(1 / 0.07)))))  # of Symile's scale, from a parameter in float32

Embeddings = Mapping[str, np.ndarray]


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) of the rows, with 0 log 0 = 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * np.log(p / q), 0.0).sum(-1)


def cs(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """-log( <p, q> / (|p|_2 |q|_2) ) of the rows."""
    with np.errstate(divide="ignore"):
        return -np.log((p * q).sum(-1) / np.sqrt((p**2).sum(-1) * (q**2).sum(-1)))


def gcs(distributions: Sequence[np.ndarray]) -> np.ndarray:
    """-log sum_j prod_k p_k[j] + (1/K) sum_k log sum_j p_k[j]^K of the rows."""
    count = len(distributions)
    with np.errstate(divide="ignore"):
        joint = np.log(np.prod(distributions, axis=0).sum(-1))
    return -joint + sum(np.log((p**count).sum(-1)) for p in distributions) / count


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean norm; a zero row stays zero."""
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)


def softmax(scores: np.ndarray) -> np.ndarray:
    """exp(s) / sum exp(s) of the rows."""
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def cosine_matching(x: np.ndarray, z: np.ndarray, temperature: float) -> np.ndarray:
    """p_ij = softmax_j( cos(x_i, z_j) / tau )."""
    return softmax(unit_rows(x) @ unit_rows(z).T / temperature)


def true_matching(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The true matching distributions of the two directions, from class, multi-hot or soft labels."""
    if labels.ndim == 1:
        match = (labels[:, None] == labels[None, :]).astype(float)
    elif np.issubdtype(labels.dtype, np.floating):
        match = labels
    else:
        shared = labels.astype(int) @ labels.astype(int).T > 0
        match = (shared | np.eye(len(labels), dtype=bool)).astype(float)
    return match / match.sum(1, keepdims=True), match.T / match.T.sum(1, keepdims=True)


Values = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]  # query, gallery, target -> one per row


def of_directions(embeddings: Embeddings, labels: np.ndarray | None, values: Values) -> dict[str, float]:
    """Means over the rows of both directions of two modalities, by name."""
    (a, x), (b, z) = embeddings.items()
    there, back = (None, None) if labels is None else true_matching(labels)
    return {f"{a}->{b}": values(x, z, there).mean(), f"{b}->{a}": values(z, x, back).mean()}


def cmpm_kl_parts(embeddings: Embeddings, labels: np.ndarray) -> dict[str, float]:
    """sum_j p_ij log( p_ij / (q_ij + 1e-8) ), p_ij = softmax_j( x_i . z_j/|z_j| )."""
    return of_directions(embeddings, labels, lambda x, z, q: kl(softmax(x @ unit_rows(z).T), q + 1e-8))


def kl_parts(
    embeddings: Embeddings, labels: np.ndarray, temperature: float = 0.1, direction: str = "forward"
) -> dict[str, float]:
    """Forward: KL(q || p); reverse: KL(p || q)."""

    def values(x: np.ndarray, z: np.ndarray, q: np.ndarray) -> np.ndarray:
        p = cosine_matching(x, z, temperature)
        return kl(q, p) if direction == "forward" else kl(p, q)

    return of_directions(embeddings, labels, values)


def cs_parts(embeddings: Embeddings, labels: np.ndarray, temperature: float = 0.1) -> dict[str, float]:
    """Cauchy-Schwarz divergence of the two directions from their targets."""
    return of_directions(embeddings, labels, lambda x, z, q: cs(cosine_matching(x, z, temperature), q))


def infonce_parts(
    embeddings: Embeddings, labels: np.ndarray | None = None, temperature: float = 0.1
) -> dict[str, float]:
    """Cross-entropy of the matching distribution with the pair as the only positive."""
    return of_directions(embeddings, labels, lambda x, z, _: -np.log(np.diag(cosine_matching(x, z, temperature))))


def mil_nce_parts(embeddings: Embeddings, labels: np.ndarray, temperature: float = 0.1) -> dict[str, float]:
    """-log sum_{j in S_i} p_ij over the items S_i that match i."""
    return of_directions(
        embeddings, labels, lambda x, z, q: -np.log((cosine_matching(x, z, temperature) * (q > 0)).sum(1))
    )


def mmd_parts(
    embeddings: Embeddings, labels: np.ndarray | None = None, sigma: float | Sequence[float] = JFSE_SIGMAS
) -> dict[str, float]:
    """E k(x,x') + E k(z,z') - 2 E k(x,z), k = sum over sigma of exp(-d^2 / (2 sigma)), plain means."""

    def mean_kernel(u: np.ndarray, v: np.ndarray) -> float:
        squared = ((u[:, None, :] - v[None, :, :]) ** 2).sum(-1)
        return sum(np.exp(-squared / (2 * s)).mean() for s in np.atleast_1d(sigma))

    (a, x), (b, z) = embeddings.items()
    return {f"{a}<->{b}": mean_kernel(x, x) + mean_kernel(z, z) - 2 * mean_kernel(x, z)}


def kernel_density(points: np.ndarray, sample: np.ndarray, sigma: float) -> np.ndarray:
    """mean_i exp( -|a - x_i|^2 / (2 sigma^2) ) at every point a."""
    squared = ((points[:, None, :] - sample[None, :, :]) ** 2).sum(-1)
    return np.exp(-squared / (2 * sigma**2)).mean(1)


def kernel_cs(x: np.ndarray, y: np.ndarray, sigma: float) -> float:
    """log mean k(x,x') + log mean k(y,y') - 2 log mean k(x,y)."""
    own, other, joint = (np.log(kernel_density(u, v, sigma).mean()) for u, v in ((x, x), (y, y), (x, y)))
    return own + other - 2 * joint


def kernel_gcs(samples: Sequence[np.ndarray], sigma: float) -> float:
    """-log (1/m) sum_t mean_j prod_{k != t} f_k(x_j^t) + (1/m) sum_t log mean_j f_t(x_j^t)^(m-1)."""
    count = len(samples)
    joint, own = 0.0, 0.0
    for t, points in enumerate(samples):
        others = [kernel_density(points, sample, sigma) for k, sample in enumerate(samples) if k != t]
        joint += np.prod(others, axis=0).mean() / count
        own += np.log((kernel_density(points, points, sigma) ** (count - 1)).mean()) / count
    return own - np.log(joint)


def kernel_cs_parts(embeddings: Embeddings, labels: np.ndarray | None = None, sigma: float = 1.0) -> dict[str, float]:
    """Kernel divergence of two modalities' unit vectors."""
    return {"<->".join(embeddings): kernel_cs(*map(unit_rows, embeddings.values()), sigma)}


def kernel_gcs_parts(embeddings: Embeddings, labels: np.ndarray | None = None, sigma: float = 1.0) -> dict[str, float]:
    """Kernel divergence among all modalities' unit vectors."""
    return {"<->".join(embeddings): kernel_gcs([unit_rows(x) for x in embeddings.values()], sigma)}


def covariance(x: np.ndarray) -> np.ndarray:
    """Covariance of the columns, normalised by n - 1."""
    centred = x - x.mean(0)
    return centred.T @ centred / (len(x) - 1)


def coral_parts(embeddings: Embeddings, labels: np.ndarray | None = None) -> dict[str, float]:
    """Mean squared difference of the two covariance matrices."""
    (a, x), (b, z) = embeddings.items()
    return {f"{a}<->{b}": ((covariance(x) - covariance(z)) ** 2).mean()}


def log_coral_parts(embeddings: Embeddings, labels: np.ndarray | None = None, ridge: float = 0.0) -> dict[str, float]:
    """Mean squared difference of the matrix logarithms of the two covariance matrices plus ridge."""
    (a, x), (b, z) = embeddings.items()
    eye = np.eye(x.shape[1])
    difference = logm(covariance(x) + ridge * eye) - logm(covariance(z) + ridge * eye)
    return {f"{a}<->{b}": (difference.real**2).mean()}


def ring_sets(names: Sequence[str], scheme: str) -> dict[str, list[tuple[str, str]]]:
    """Edge sets of a circular matching scheme; the second set of a pair of sets is the first one reversed."""
    ring = [(names[k], names[(k + 1) % len(names)]) for k in range(len(names))]
    if scheme == "mixed":
        ring[-1] = ring[-1][::-1]
        return {"forward": ring, "reversed": [edge[::-1] for edge in ring]}
    sets = {"clockwise": ring, "counterclockwise": [edge[::-1] for edge in ring]}
    return sets if scheme == "bidirectional" else {scheme: sets[scheme]}


def gcs_parts(
    embeddings: Embeddings,
    labels: np.ndarray | None = None,
    temperature: float = 0.1,
    scheme: str = "bidirectional",
    use_target: bool = True,
    divergence: Callable[[Sequence[np.ndarray]], np.ndarray] = gcs,
) -> dict[str, float]:
    """Generalised Cauchy-Schwarz divergence of every edge set and its target."""
    parts = {}
    for name, edges in ring_sets(list(embeddings), scheme).items():
        rows = [cosine_matching(embeddings[a], embeddings[b], temperature) for a, b in edges]
        if use_target:
            rows.append(true_matching(labels)[name in ("counterclockwise", "reversed")])
        parts[name] = divergence(rows).mean()
    return parts


def cross_entropy(logits: np.ndarray, answers: np.ndarray, smoothing: float = 0.0) -> float:
    """Mean over rows of -sum_j t_ij log softmax_j(logits_ij), t the answer with a share spread evenly over all."""
    target = np.full(logits.shape, smoothing / logits.shape[1])
    target[np.arange(len(logits)), answers] += 1 - smoothing
    return -(target * np.log(softmax(logits))).sum(1).mean()


def gram_parts(
    embeddings: Embeddings,
    labels: np.ndarray | None = None,
    temperature: float = 0.07,
    anchor: str | None = None,
    label_smoothing: float = 0.1,
) -> dict[str, float]:
    """Half of each cross-entropy, of rows and of columns, of -V / tau, V_ij = sqrt|det G_ij|."""
    anchor = anchor or ("text" if "text" in embeddings else next(iter(embeddings)))
    others = [name for name in embeddings if name != anchor]
    count = len(embeddings[anchor])
    volumes = np.empty((count, count))
    for i, j in itertools.product(range(count), repeat=2):
        vectors = unit_rows(np.stack([embeddings[anchor][i], *(embeddings[name][j] for name in others)]))
        gram = vectors @ vectors.T
        np.fill_diagonal(gram, 1.0)
        volumes[i, j] = np.sqrt(abs(np.linalg.det(gram)))
    of_anchors = cross_entropy(-volumes / temperature, np.arange(count), label_smoothing)
    of_items = cross_entropy(-volumes.T / temperature, np.arange(count), label_smoothing)
    return {f"{anchor}->{'+'.join(others)}": of_anchors / 2, f"{'+'.join(others)}->{anchor}": of_items / 2}


def symile_parts(
    embeddings: Embeddings,
    labels: np.ndarray | None = None,
    logit_scale: float = START,
    negatives: str = "all",
    permutations: Mapping[str, np.ndarray] | None = None,
) -> dict[str, float]:
    """Cross-entropy of s sum_d x_d prod_m y_md of every anchor, over their number.

    The answer is the first candidate; the others are all other combinations, or one for every other place of the batch,
    with the items that the permutations put there.
    """
    units, parts = {name: unit_rows(x) for name, x in embeddings.items()}, {}
    for anchor in units:
        others, count = [name for name in units if name != anchor], len(units[anchor])
        logits = []
        for i in range(count):
            own = (i,) * len(others)
            if negatives == "all":
                met = [items for items in itertools.product(range(count), repeat=len(others)) if items != own]
            else:
                met = [tuple(permutations[name][j] for name in others) for j in range(count) if j != i]
            candidates = [
                np.prod([units[n][k] for n, k in zip(others, items, strict=True)], 0) for items in [own, *met]
            ]
            logits.append(logit_scale * np.stack(candidates) @ units[anchor][i])
        parts[f"{anchor}->{'+'.join(others)}"] = cross_entropy(np.stack(logits), np.zeros(count, int)) / len(units)
    return parts


def gcs_clamped_parts(
    embeddings: Embeddings, labels: np.ndarray | None = None, epsilon: float = 1e-8, **keywords
) -> dict[str, float]:
    """As `gcs`, of distributions whose entries are raised to at least epsilon."""
    return gcs_parts(
        embeddings, labels, divergence=lambda rows: gcs([np.maximum(p, epsilon) for p in rows]), **keywords
    )


def gcs_product_parts(embeddings: Embeddings, labels: np.ndarray | None = None, **keywords) -> dict[str, float]:
    """As `gcs`, without its norms."""
    return gcs_parts(embeddings, labels, divergence=lambda rows: -np.log(np.prod(rows, axis=0).sum(-1)), **keywords)


def pairwise_parts(
    embeddings: Embeddings, labels: np.ndarray | None = None, divergence: str = "kl", **keywords
) -> dict[str, float]:
    """A two-modality loss over all pairs of modalities."""
    parts = {}
    for a, b in itertools.combinations(embeddings, 2):
        parts |= LOSSES[divergence]({a: embeddings[a], b: embeddings[b]}, labels, **keywords)
    return parts


LOSSES = {name.removesuffix("_parts"): value for name, value in globals().items() if name.endswith("_parts")}
