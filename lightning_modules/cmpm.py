"""CMPM: cross-modal projection matching and classification of two modalities."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules import RetrievalData
from datamodules.batches import Batch
from lightning_modules.encoded import EncodedModule
from losses import AlignmentLoss
from losses.common.matching import unit


class CMPM(EncodedModule):
    """Two encoders, each with a linear projection into a joint space, aligned by a loss of the registry.

    e_m = W_m encoder_m(x_m) + b_m; total = v alignment({e_m}, identities) + w CMPC({e_m}, identities), where CMPC is
    :class:`ProjectionClassification`. Labels are identities: entries of one person, or of one image, match each other.
    The retrieval embedding is e_m, compared by cosine.

    The identities that CMPC tells apart are those of the training items, taken when the model is prepared for training
    and kept, with their weights, in the checkpoint; they may be any integers.

    The original code has the joint space of 512 dimensions, the learning rate, and the plain sum of both losses, which
    is classification_weight 1. Its optimiser is Adam at a constant rate; the one here, which all models share, is Adam
    too where weight_decay is 0, but with warm-up and cosine decay.

    Args:
        dims: modality -> width of its vectors, or "kind", "shape" and "rate" of its entries, as `RetrievalData.dims`;
            two modalities, "class_embedding" is none.
        encoders: modality -> {"name": one of the encoders, and its settings}; precomputed features where it has none.
        alignment: alignment loss of two modalities, an instance or a name of :func:`losses.available_losses`.
        alignment_weight: v, 0 or more.
        classification_weight: w, 0 or more; 0 for no classification.
        dim: width of the joint space.
        dropout: share of the encoders' outputs dropped before the projection.
        learning_rate: of AdamW, reached in a tenth of the steps and then annealed to 0 by a cosine.
        weight_decay: of AdamW.
        ks: cut-offs of the logged R@k and P@k.

    Raises:
        ValueError: other than two modalities, an encoder for a modality that the data do not have, an unknown encoder
            or loss, or a negative weight; when training with classification starts, labels that are no identities, or
            others than those of the checkpoint that training is resumed from.

    Source: Zhang and Lu, "Deep Cross-Modal Projection Learning for Image-Text Matching", ECCV 2018, and its code.
    """

    training_only = ("alignment", "classification")

    def __init__(
        self,
        dims: Mapping[str, Any],
        encoders: Mapping[str, Mapping[str, Any]] | None = None,
        alignment: str | AlignmentLoss = "cmpm_kl",
        alignment_weight: float = 1.0,
        classification_weight: float = 0.0,
        dim: int = 512,
        dropout: float = 0.0,
        learning_rate: float = 2e-4,
        weight_decay: float = 0.0,
        ks: Sequence[int] = (1, 5, 10),
    ):
        for name, weight in (("alignment_weight", alignment_weight), ("classification_weight", classification_weight)):
            if weight < 0:
                raise ValueError(f"{name} is {weight}; expected 0 or more")
        super().__init__(dims, encoders, "honest", learning_rate, weight_decay, ks)
        if len(self.modalities) != 2:
            raise ValueError(
                f"CMPM takes two modalities, and the data have {len(self.modalities)} ({', '.join(self.modalities)}); "
                "choose two with the data's modalities, or a model for more, such as LAVIMO"
            )
        self.set_alignment(alignment, required=True)
        self.alignment_weight, self.classification_weight = alignment_weight, classification_weight
        self.dim, self.projections = dim, nn.ModuleDict()
        for name, encoder in self.encoders.items():
            self.projections[name] = nn.Sequential(nn.Dropout(dropout), nn.Linear(encoder.dim, dim))
        self.classification: ProjectionClassification | None = None

    def prepare_training(self, data: RetrievalData) -> None:
        """As every encoded model; and make room for the identities of the training items."""
        super().prepare_training(data)
        if not self.classification_weight:
            return
        labels = data.train_labels_of_items()
        if labels.ndim != 1:
            raise ValueError(
                f"classification needs one identity per item, and the labels of {data.dataset} are multi-hot; set "
                "classification_weight to 0"
            )
        self._identities = labels.unique()
        if self.classification is None:
            self.classification = ProjectionClassification(self._identities, self.dim, seed=int(self.run_seed))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        identities = checkpoint["state_dict"].get("classification.identities")
        if identities is not None:
            self.classification = ProjectionClassification(identities, self.dim).to(self.device)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.classification is not None:
            self.classification.require(self._identities)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        embeddings = self.embed(batch)
        terms = {"alignment": (self.alignment_weight, self.alignment(embeddings, batch["label"]).total)}
        if self.classification is not None:
            classified = self.classification(*embeddings.values(), batch["label"])
            terms["classification"] = self.classification_weight, classified
        return self.total(batch, **terms)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Retrieval embeddings (n, D) of the modalities in the batch."""
        return {name: self.projections[name](x) for name, x in self.encode(batch).items()}


class ProjectionClassification(nn.Module):
    """Cross-modal projection classification (CMPC): the identity of an embedding projected onto its partner.

    mean_i CE( W x^_i, y_i ) + mean_i CE( W z^_i, y_i ), with x^ = (x . z/|z|) z/|z|, z^ = (z . x/|x|) x/|x| and rows
    of W scaled to length one; no bias, no temperature.

    Processes: each takes the mean over its own rows; gradients are averaged, which equals one process on the global
    batch.

    Args:
        identities: (C,) integers, ascending, each once.
        dim: width of the embeddings.
        seed: draws the weights, whatever was drawn before: distributed training starts with those of one process.

    Raises:
        ValueError: there are fewer than two identities.

    Source: Zhang and Lu, ECCV 2018; the weights start as in their code (Glorot uniform).
    """

    def __init__(self, identities: Tensor, dim: int, seed: int = 0):
        super().__init__()
        if len(identities) < 2:
            raise ValueError("classification needs two identities at least; set classification_weight to 0")
        self.register_buffer("identities", identities)
        # Not the model's own seed: the draws would be those of its first layer.
        draw = torch.Generator().manual_seed(int(np.random.SeedSequence((seed, len(identities))).generate_state(1)[0]))
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(len(identities), dim), generator=draw))

    def require(self, labels: Tensor) -> None:
        """Refuse labels (n,) that are none of the identities with a ValueError."""
        unknown = labels[~torch.isin(labels, self.identities.to(labels.device))].unique()
        if len(unknown):
            raise ValueError(
                f"{len(unknown)} identities of the training items are unknown to the model, the first is "
                f"{int(unknown[0])}; a model trained with classification is trained further on its own identities alone"
            )

    def forward(self, x: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """The loss of embeddings (B, D) of two modalities and their identities (B,)."""
        with torch.autocast(x.device.type, enabled=False):
            dtype = torch.promote_types(torch.promote_types(x.dtype, z.dtype), torch.float32)
            x, z, weight = x.to(dtype), z.to(dtype), unit(self.weight).to(dtype)
            target = torch.searchsorted(self.identities, labels)
            return sum(
                F.cross_entropy((one * unit(other)).sum(dim=1, keepdim=True) * (unit(other) @ weight.T), target)
                for one, other in ((x, z), (z, x))
            )
