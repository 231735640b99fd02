"""The dense networks of adversarial cross-modal retrieval: regressors, generators, critics, modality classifier."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GRADIENT_PENALTY = 10.0
# Share of the hidden layer's dropout that a regressor applies at its input.
INPUT_DROPOUT_SHARE = 0.4


def regressor(input_dim: int, width: int, output_dim: int, output: nn.Module, dropout: float = 0.0) -> nn.Sequential:
    """Two dense layers from a feature to the class-embedding space: input - width - output.

    Args:
        input_dim: feature dimension.
        width: hidden units.
        output_dim: dimension of the class embedding.
        output: activation of the output.
        dropout: share of hidden units dropped in training; two fifths of it at the input.

    Source: Xu et al., IEEE TPAMI 2022 (JFSE), R_v and R_t; dropout is this suite's.
    """
    return nn.Sequential(
        nn.Dropout(dropout * INPUT_DROPOUT_SHARE),
        nn.Linear(input_dim, width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, output_dim),
        output,
    )


def generator(class_dim: int, noise_dim: int, width: int, output_dim: int, output: nn.Module) -> nn.Sequential:
    """Two dense layers from [class embedding; noise] to a synthetic feature.

    Args:
        class_dim: dimension of the class embedding.
        noise_dim: dimension of the noise.
        width: hidden units.
        output_dim: feature dimension.
        output: activation of the output.

    Source: Xu et al., IEEE TPAMI 2022 (JFSE), G_v and G_t.
    """
    return nn.Sequential(nn.Linear(class_dim + noise_dim, width), nn.ReLU(), nn.Linear(width, output_dim), output)


class Critic(nn.Module):
    """Conditional Wasserstein critic: [feature; class embedding] - width - 1, LeakyReLU 0.2.

    Args:
        feature_dim: feature dimension.
        class_dim: dimension of the class embedding.
        width: hidden units.

    Source: Xu et al., IEEE TPAMI 2022 (JFSE), D_v and D_t.
    """

    slope = 0.2

    def __init__(self, feature_dim: int, class_dim: int, width: int):
        super().__init__()
        # One dense layer on the concatenation, kept as two weights because the loss uses its halves separately.
        self.feature = nn.Linear(feature_dim, width)
        self.condition = nn.Linear(class_dim, width, bias=False)
        self.score = nn.Linear(width, 1)
        bound = (feature_dim + class_dim) ** -0.5
        for parameter in (self.feature.weight, self.feature.bias, self.condition.weight):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, feature: Tensor, class_embedding: Tensor) -> Tensor:
        """Scores (B,) of features (B, d) given class embeddings (B, E)."""
        hidden = self.feature(feature) + self.condition(class_embedding)
        return self.score(F.leaky_relu(hidden, self.slope)).squeeze(1)

    def loss(self, real: Tensor, fake: Tensor, class_embedding: Tensor, mix: Tensor) -> Tensor:
        r"""Wasserstein loss with gradient penalty: E D(fake) - E D(real) + 10 E( |grad_x D(x, a)|_2 - 1 )^2.

        The penalty is taken at x = mix real + (1 - mix) fake. Before the activation the critic is affine, so its
        hidden layer at x is the same mixture of those at the two ends; and the gradient with respect to the feature is
        (s * w) W_x, with s the slope of the activation at each hidden unit. Both are exact, and save a third pass and
        the second differentiation.

        Args:
            real: (B, d) features.
            fake: (B, d) synthetic features, detached.
            class_embedding: (B, E).
            mix: (B, 1) in [0, 1].

        Returns:
            Scalar with gradient to the critic.

        Source: Gulrajani et al., NeurIPS 2017; the penalty concerns the feature alone (public JFSE code).
        """
        hidden = self.feature(torch.cat([real, fake])).view(2, len(mix), -1) + self.condition(class_embedding)
        at_real, at_fake = hidden.detach()
        slopes = self.slope + (1 - self.slope) * (mix * at_real + (1 - mix) * at_fake > 0).to(hidden.dtype)
        gradient = (slopes * self.score.weight) @ self.feature.weight
        exact = torch.promote_types(gradient.dtype, torch.float32)
        penalty = (torch.linalg.vector_norm(gradient, dim=1, dtype=exact) - 1).square().mean()
        score_real, score_fake = self.score(F.leaky_relu(hidden, self.slope).mean(dim=1))  # of the mean: it is affine
        return (score_fake - score_real).squeeze() + GRADIENT_PENALTY * penalty


class ModalityClassifier(nn.Module):
    """Linear layers 300-150-75-2 behind a gradient reversal layer, telling embeddings of two modalities apart.

    Args:
        embedding_dim: dimension D of the embedding; the layers have D, D/2, D/4 and 2 units.

    Source: Xu et al., IEEE TPAMI 2022 (JFSE); gradient reversal of Ganin and Lempitsky, ICML 2015.
    """

    def __init__(self, embedding_dim: int):
        super().__init__()
        half, quarter = max(embedding_dim // 2, 2), max(embedding_dim // 4, 2)
        self.layers = nn.Sequential(nn.Linear(embedding_dim, half), nn.Linear(half, quarter), nn.Linear(quarter, 2))

    def loss(self, first: Tensor, second: Tensor, strength: float) -> Tensor:
        """Cross-entropy of both modalities added, mean over items; upstream it arrives reversed and scaled.

        Args:
            first: (B, D) embeddings of the first modality.
            second: (B, D) embeddings of the second.
            strength: factor of the reversed gradient.
        """
        scores = self.layers(_ReverseGradient.apply(torch.cat([first, second]), strength))
        modality = torch.arange(2, device=scores.device).repeat_interleave(len(first))
        return 2 * F.cross_entropy(scores, modality)


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradient, None
