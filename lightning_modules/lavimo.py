"""LAVIMO: a joint space for three modalities and more."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.batches import Batch
from datamodules.paired_features import Protocol
from lightning_modules.encoded import EncodedModule
from lightning_modules.metrics.directions import parse_joint_query
from lightning_modules.metrics.ranking import check_score
from lightning_modules.networks.adapters import projection
from lightning_modules.networks.fusion import CrossAttention, Reconstruction
from losses import AlignmentLoss


class LAVIMO(EncodedModule):
    """One encoder and projection per modality into a joint space, aligned by a loss of the registry.

    e_m = LayerNorm(W_m encoder_m(x_m)); total = v alignment({e_m}, labels) + w MSE(decoder(fused), target), where fused
    are the cross-attended embeddings of the item's modalities and target is the detached output of the encoder of the
    reconstructed modality. The retrieval embedding is e_m: it knows one modality alone. Fusion serves training.

    ``protocol="as_published"`` aligns and evaluates the cross-attended embeddings instead, as the public code does: the
    embedding of a query has then seen its own pair in every other modality, which no retrieval system has, so its
    scores serve for comparison alone. Where an item has several entries of a modality, only its first is evaluated.
    Of the public code's flaws it keeps this one alone.

    Args:
        dims: modality -> width of its vectors, or "kind", "shape" and "rate" of its entries, as `RetrievalData.dims`;
            their order is the ring, and "class_embedding" is no modality.
        encoders: modality -> {"name": one of the encoders, and its settings}; where it has none, `mlp` for vectors and
            `features` for sequences of vectors.
        alignment: alignment loss, an instance or a name of :func:`losses.available_losses`.
        protocol: "honest" or "as_published".
        alignment_weight: v.
        dim: width of the joint space, a multiple of 8.
        dropout: share of the encoders' outputs dropped before the projection.
        reconstruct: modality that the fusion branch reconstructs; None for no such branch.
        reconstruction_weight: w.
        learning_rate: of AdamW, reached in a tenth of the steps and then annealed to 0 by a cosine.
        weight_decay: of AdamW.
        ks: cut-offs of the logged R@k and P@k.
        joint_queries: directions scored beside those between two modalities, such as "text+video->motion": an item
            asks by several of its entries at once, of each modality its first.
        joint_score: what ranks for them, "cosine", "multilinear" (for `symile`) or "volume" (for `gram`).

    Raises:
        ValueError: an encoder for a modality that the data do not have, a modality to reconstruct, or in a joint query,
            that they do not have, an unknown protocol, encoder, loss or score, or a number outside its range.

    Source: Yin et al., CVPR 2024 (LAVIMO), and the paper's tri-modal code, less its flaws: leaking and batch-dependent
    evaluation, targets that train along, every row its own class, no validation.
    """

    training_only = ("alignment", "fusion", "decoder")
    vector_encoder = "mlp"

    def __init__(
        self,
        dims: Mapping[str, Any],
        encoders: Mapping[str, Mapping[str, Any]] | None = None,
        alignment: str | AlignmentLoss = "gcs",
        protocol: Protocol = "honest",
        alignment_weight: float = 1.0,
        dim: int = 128,
        dropout: float = 0.0,
        reconstruct: str | None = None,
        reconstruction_weight: float = 1.0,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.01,
        ks: Sequence[int] = (1, 3, 5, 10),
        joint_queries: Sequence[str] = (),
        joint_score: Literal["cosine", "multilinear", "volume"] = "cosine",
    ):
        super().__init__(dims, encoders, protocol, learning_rate, weight_decay, ks)
        if reconstruct is not None and reconstruct not in self.modalities:
            raise ValueError(f"the data have no modality {reconstruct!r}; they have {', '.join(self.modalities)}")
        self.directions += [parse_joint_query(name, self.modalities) for name in joint_queries]
        check_score(joint_score)
        self.joint_score = joint_score
        self.set_alignment(alignment, required=True)
        self.alignment_weight = alignment_weight
        self.reconstruct, self.reconstruction_weight = reconstruct, reconstruction_weight
        self._build(dim, dropout)

    def _build(self, dim: int, dropout: float) -> None:
        self.projections = nn.ModuleDict(
            {name: projection(encoder.dim, dim, dropout) for name, encoder in self.encoders.items()}
        )
        heads = 8
        if dim % heads:
            raise ValueError(f"dim is {dim}; expected a multiple of {heads}, the heads of the fusion")
        fuses = self.protocol == "as_published" or self.reconstruct is not None
        self.fusion = CrossAttention(self.modalities, dim, heads) if fuses else None
        self.decoder = Reconstruction(dim, heads, self.encoders[self.reconstruct].dim) if self.reconstruct else None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        encoded = self.encode(batch)
        embeddings = self._project(encoded)
        fused = self.fusion(embeddings) if self.fusion is not None else None
        aligned = fused if self.protocol == "as_published" else embeddings
        terms = {"alignment": (self.alignment_weight, self.alignment(aligned, batch["label"]).total)}
        if self.decoder is not None:
            error = F.mse_loss(self.decoder(fused), encoded[self.reconstruct].detach())
            terms["reconstruction"] = self.reconstruction_weight, error
        return self.total(batch, **terms)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Retrieval embeddings (n, D) of the modalities in the batch; as_published they need all of an item's."""
        embeddings = self._project(self.encode(batch))
        return self.fusion(embeddings) if self.protocol == "as_published" else embeddings

    def evaluated(self, batch: Batch) -> Batch:
        """The batch itself; as_published, the first entry of every item in every modality."""
        if self.protocol == "honest":
            return batch
        chosen: dict[str, Any] = {"masks": {}, "split": batch["split"]}
        for name in self.modalities:
            item = batch["item"][name]
            first = torch.cat([torch.ones_like(item[:1], dtype=torch.bool), item[1:] != item[:-1]])
            chosen[name] = batch[name][first]
            for key in ("label", "id", "item", "query", "masks"):
                if name in batch.get(key, {}):
                    chosen.setdefault(key, {})[name] = batch[key][name][first]
        return chosen

    def _project(self, encoded: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.projections[name](x) for name, x in encoded.items()}
