"""CS-Aligner: a joint space by InfoNCE over pairs and a divergence between the distributions of the modalities."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from datamodules import RetrievalData
from datamodules.batches import Batch
from lightning_modules.encoded import EncodedModule
from lightning_modules.networks.adapters import build_adapter
from lightning_modules.networks.encoders import ENCODERS, Encoder
from losses import AlignmentLoss, build_loss
from losses.common.base import positive
from losses.common.gather import gather
from losses.common.matching import unit
from losses.kernel import kernel_cs_divergence, kernel_gcs_divergence

ENTRIES_AT_ONCE = 1024


class CSAligner(EncodedModule):
    """Encoders, frozen or trained, and small adapters of what they return into a joint space.

    total = alignment({e_m}, labels) + lambda D({e_m} and unpaired ones) + mu mean_i D(tokens of i), where e_m is the
    adapted embedding of modality m and D the kernel divergence of L2-normalised samples: `kernel_cs` of two modalities,
    `kernel_gcs` of more. The alignment draws pairs together; D draws the distributions of whole modalities together
    and needs no pairs, so unpaired samples enter it alone. The last term compares, within each item, the tokens (words,
    image cells, steps in time) of one modality with those of another, summed over the pairs of modalities.

    ``target`` names a modality whose encoder does not train and whose output is the joint space: its side is the
    identity, and the other modalities are adapted into it. Losses see directions alone, so that adapted embeddings are
    given the mean length of the target's training embeddings, and can stand in for them: what ``csd predict`` writes
    for texts under ``target="image"`` are vectors in the space of the image features, for an index of image features
    or for a decoder of them (:func:`lightning_modules.serving.generation.generate_images`). A target without an encoder
    of its own keeps its precomputed features in their own units, not standardised.

    Args:
        dims: modality -> width of its vectors, or "kind", "shape" and "rate" of its entries, as `RetrievalData.dims`.
        encoders: modality -> {"name": one of the encoders, and its settings}; precomputed features where it has none.
        alignment: alignment loss, an instance or a name of :func:`losses.available_losses`; None for none. "infonce",
            a loss of two modalities, is summed over all pairs of more.
        divergence_weight: lambda, 0 or more.
        sigma: bandwidth of the kernel, for unit vectors.
        adapter: {"name": "mlp" or "transformer", and its settings}; "mlp" by default. A transformer reads
            tokens where the encoder has them.
        dim: width of the joint space, 128 by default; with a target it is the target's.
        target: modality that stays as it is, and that the others are adapted to; None adapts all.
        token_weight: mu, 0 or more. Given, all adapters read tokens, with 0 for comparison without the term.
        unpaired: entries per modality, step and process, drawn with replacement from the unpaired samples of the data
            (`unpaired_entries` of the data module: items outside `paired_fraction`, samples without a partner, and all
            captions of items that have several) and independently in each modality that has some.
        learning_rate: of AdamW, reached in a tenth of the steps and then annealed to 0 by a cosine.
        weight_decay: of AdamW.
        ks: cut-offs of the logged R@k and P@k.

    Raises:
        ValueError: an encoder or target that the data do not have, a target that trains, a token term over encoders
            without tokens, an unknown encoder, adapter or loss, nothing to train by, or a number outside its range; on
            fitting, unpaired samples asked of data that have none.
        TypeError: an unknown setting of an encoder or adapter.

    Source: Yin et al., "Distributional Vision-Language Alignment by Cauchy-Schwarz Divergence", arXiv 2502.17028; the
    values of lambda, mu, learning rate and batch size are not known.
    """

    def __init__(
        self,
        dims: Mapping[str, Any],
        encoders: Mapping[str, Mapping[str, Any]] | None = None,
        alignment: str | AlignmentLoss | None = "infonce",
        divergence_weight: float = 1.0,
        sigma: float = 1.0,
        adapter: Mapping[str, Any] | None = None,
        dim: int | None = None,
        target: str | None = None,
        token_weight: float | None = None,
        unpaired: int = 0,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        ks: Sequence[int] = (1, 5, 10),
    ):
        given = {"divergence_weight": divergence_weight, "token_weight": token_weight or 0, "unpaired": unpaired}
        for name, value in given.items():
            if value < 0:
                raise ValueError(f"{name} is {value}; expected 0 or more")
        if alignment is None and not divergence_weight and not token_weight:
            raise ValueError("nothing to train by: alignment is None, and divergence_weight and token_weight are 0")
        if unpaired and not divergence_weight:
            raise ValueError(
                f"unpaired is {unpaired} and divergence_weight is 0: unpaired samples enter the divergence alone; give "
                "it a weight, or set unpaired to 0"
            )
        fixed = {} if target is None else {target: {"name": "features", "standardise": False}}
        super().__init__(dims, fixed | dict(encoders or {}), "honest", learning_rate, weight_decay, ks)
        self.set_alignment(alignment)
        if alignment == "infonce" and len(self.modalities) > 2:
            self.alignment = build_loss("pairwise", divergence="infonce")
        self.divergence_weight, self.sigma = divergence_weight, positive("sigma", sigma)
        self.token_weight, self.unpaired, self.target = token_weight, unpaired, target
        self._build(dim, dict(adapter or {"name": "mlp"}))
        self._unpaired_entries: dict[str, tuple[Tensor, Tensor | None]] = {}

    def _build(self, dim: int | None, adapter: dict[str, Any]) -> None:
        kind = adapter.pop("name", "")
        with_tokens = {name for name, encoder in self.encoders.items() if encoder.token_dim is not None}
        self._reads_tokens = with_tokens if self.token_weight is not None or kind == "transformer" else set()
        self._check_encoders(dim)
        if self.target is not None:
            dim = self.encoders[self.target].dim
            self.register_buffer("target_length", torch.ones(()))
        self.adapters = nn.ModuleDict()
        for name, encoder in self.encoders.items():
            if name != self.target:
                width = encoder.token_dim if name in self._reads_tokens else encoder.dim
                self.adapters[name] = build_adapter(kind, width, dim or 128, **adapter)

    def _check_encoders(self, dim: int | None) -> None:
        """Refuse a token term over encoders without tokens, and a target that trains or whose space has no tokens."""
        for name, encoder in self.encoders.items() if self.token_weight is not None else ():
            if name not in self._reads_tokens:
                others = ", ".join(key for key, kind in ENCODERS.items() if kind.with_tokens is not Encoder.with_tokens)
                raise ValueError(
                    f"token_weight compares tokens, and the encoder of {name!r}, {type(encoder).__name__}, has none as "
                    f"it is set; those that can have them are {others} (features of sequences; timm and clip if not "
                    "frozen)"
                )
        if self.target is None:
            return
        if dim is not None:
            raise ValueError(f"dim is {dim}, and the joint space is that of the target {self.target!r}: leave dim out")
        encoder = self.encoders[self.target]
        if any(parameter.requires_grad for parameter in encoder.parameters()):
            raise ValueError(
                f"the target {self.target!r} stays as it is, and its encoder, {type(encoder).__name__}, trains: take "
                "features, a frozen encoder, or no target"
            )
        if self.token_weight and encoder.token_dim != encoder.dim:
            raise ValueError(
                f"token_weight with the target {self.target!r} compares tokens in the target's space, and those of its "
                f"encoder, {type(encoder).__name__}, are {encoder.token_dim} wide, its vectors {encoder.dim}; take "
                "frozen tokens, or no target"
            )

    def prepare_training(self, data: RetrievalData) -> None:
        """As every encoded model; and take the target's mean length and the unpaired samples."""
        super().prepare_training(data)
        if self.target is not None:
            rows, mask = data.train_entries(self.target)
            parts = torch.arange(len(rows)).split(ENTRIES_AT_ONCE)
            with torch.no_grad():
                vectors = [self._encoded(self.target, *self._here(rows, mask, part))[0] for part in parts]
            self.target_length.copy_(torch.cat(vectors).norm(dim=1).mean())
        if self.unpaired:
            entries = {name: data.unpaired_entries(name) for name in self.modalities}
            self._unpaired_entries = {name: (rows, mask) for name, (rows, mask) in entries.items() if len(rows)}
            if not self._unpaired_entries:
                raise ValueError(
                    f"unpaired is {self.unpaired}, and the data have no unpaired samples: set paired_fraction of the "
                    "data module below 1, bring samples without a partner (OwnData), or set unpaired to 0"
                )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        masks = batch.get("masks", {})
        adapted = {name: self._adapted(name, batch[name], masks.get(name)) for name in self.modalities}
        embeddings = {name: vector for name, (vector, _, _) in adapted.items()}
        terms: dict[str, tuple[float, Tensor]] = {}
        if self.alignment is not None:
            terms["alignment"] = 1.0, self.alignment(embeddings, batch["label"]).total
        if self.divergence_weight:
            terms["divergence"] = self.divergence_weight, self._divergence(embeddings)
        if self.token_weight:
            terms["tokens"] = self.token_weight, self._token_divergence(list(adapted.values()))
        return self.total(batch, **terms)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Modality -> (n, D) embeddings in the joint space, for the modalities in the batch."""
        masks = batch.get("masks", {})
        return {n: self._adapted(n, batch[n], masks.get(n))[0] for n in self.modalities if n in batch}

    def _adapted(self, name: str, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Vectors (n, D) and tokens (n, T, D) of entries in the joint space, and the tokens' mask."""
        vector, tokens, mask = self._encoded(name, x, mask)
        if name == self.target:
            return vector, tokens, mask
        vector, tokens = self.adapters[name](tokens, mask)
        return vector if self.target is None else self.target_length * unit(vector), tokens, mask

    def _encoded(self, name: str, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """What an encoder returns; where no tokens are read, the vector is the one token."""
        if name in self._reads_tokens:
            return self.encoders[name].with_tokens(x, mask)
        vector = self.encoders[name](x, mask)
        return vector, vector[:, None], None

    def _divergence(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        """Kernel divergence of the modalities over all processes, unpaired samples among them."""
        samples = []
        for name, rows in embeddings.items():
            if name in self._unpaired_entries:
                rows = torch.cat([rows, self._adapted(name, *self._drawn(name))[0]])
            samples.append(gather(_directions(rows)))
        if len(samples) == 2:
            return kernel_cs_divergence(*samples, self.sigma)
        return kernel_gcs_divergence(samples, self.sigma)

    def _drawn(self, name: str) -> tuple[Tensor, Tensor | None]:
        rows, mask = self._unpaired_entries[name]
        return self._here(rows, mask, torch.randint(len(rows), (self.unpaired,)))

    def _here(self, rows: Tensor, mask: Tensor | None, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Some of the entries that no loader brought, on the model's device and in its precision."""
        dtype = self.dtype if rows.is_floating_point() else None
        return rows[index].to(self.device, dtype), None if mask is None else mask[index].to(self.device)

    def _token_divergence(self, adapted: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> Tensor:
        """Mean over this process's items of the kernel divergence between the tokens of two modalities, all pairs."""
        tokens = [(_directions(rows), mask) for _, rows, mask in adapted]
        return sum(
            kernel_cs_divergence(x, y, self.sigma, x_mask, y_mask).mean()
            for (x, x_mask), (y, y_mask) in combinations(tokens, 2)
        )


def _directions(x: Tensor) -> Tensor:
    """Rows of length one, in float32 or wider."""
    return unit(x.to(torch.promote_types(x.dtype, torch.float32)))
