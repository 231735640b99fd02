"""JFSE: joint feature synthesis and embedding of two modalities."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from datamodules import RetrievalData
from datamodules.batches import Batch
from datamodules.paired_features import Protocol
from lightning_modules.base import RetrievalModule, View
from lightning_modules.networks.adversarial import Critic, ModalityClassifier, generator, regressor
from lightning_modules.networks.encoders.base import mean_and_variance
from losses import AlignmentLoss
from losses.common.gather import gather, world

NOISE_DIM = 300
CRITIC_STEPS = 5


# Weight of the alignment loss, dropout of the regressors, activation of generator and regressor outputs.
DEFAULTS = {"honest": (1.0, 0.5, nn.Identity), "as_published": (1e-4, 0.0, nn.ReLU)}


class JFSE(RetrievalModule):
    """Coupled conditional WGANs synthesise features; regressors map real and synthetic ones to class embeddings.

    With feature x, class embedding a, noise z, generators G, critics D, regressors R of image (v) and text (t):

    - critics: sum over v, t of E D(G(a,z)) - E D(x) + 10 E( |grad D| - 1 )^2, five steps per batch;
    - generators: -sum E D(G(a,z)) + 0.1 ( cyc_v + cyc_t + 0.01 adv_syn );
    - regressors: ori_v + ori_t + w align_real + 0.01 adv_real + 0.01 ( cyc_v + cyc_t + 0.01 adv_syn + w align_syn );
    - modality classifier: adv_syn + adv_real;

    where ori = mean (a - R(x))^2, cyc = mean (a - R(G(a,z)))^2, adv is the cross-entropy of the modality classifier
    behind a gradient reversal of strength 2/(1 + exp(-10 epoch/epochs)) - 1 (epochs is 1 where max_epochs is -1), and
    align is the alignment loss between R_v and R_t. The last three parts are stepped together, from one forward pass.
    The retrieval embedding is R(x).

    ``protocol="as_published"`` is what the public code does: ReLU outputs; images, texts and class embeddings min-max
    scaled in every batch; weight 1e-4; and, in evaluation, the best of four post-processings (features as they are or
    min-max scaled over the evaluated set, outputs as they are or through a softmax), z-scored by the evaluated set.
    Its selection on test items and fixed order are those of the data module's ``protocol``.

    The default departs from it, each for a reason:

    - inputs are standardised and outputs linear, because ReLU and min-max scaling suit only non-negative features, and
      scaling by batch gives a class another target in every batch;
    - class embeddings are centred by the mean over the training items and scaled to a mean square of one: what
      sentence embeddings have in common says nothing about the class, and cosine retrieval pays for it;
    - the regressors have dropout (0.5 at the hidden layer, 0.2 at the input), because small data sets overfit;
    - the alignment weight is 1, because at 1e-4 no alignment loss changes the result measurably;
    - the embedding is evaluated as it is, with nothing fitted to the evaluated items.

    In both, the last incomplete batch of an epoch is left out, and noise is drawn once per batch as in the public
    code, whose generators also see it in the critic steps.

    Processes: N of them (trainer strategy "ddp") do what one does on the global batch, in which they hold every N-th
    row: noise, mixing weights of the gradient penalty and the ranges of min-max scaling are the global batch's, and
    each optimiser's gradients are averaged over processes. Dropout is drawn by each process for its own rows.

    Args:
        dims: width of the two modalities' features and of "class_embedding"; the first modality is v, the second t.
        alignment: alignment loss, an instance or a name of :func:`losses.available_losses`; None for no alignment.
        protocol: "honest" or "as_published".
        alignment_weight: w; by default the protocol's.
        width: hidden units of every network.
        dropout: of the regressors; by default the protocol's.
        learning_rate: of the four Adam optimisers (beta1 0.5).

    Raises:
        ValueError: ``dims`` does not name two modalities and "class_embedding" or is of items, the protocol is unknown,
            or a width, dropout or learning rate is out of range.

    Source: Xu et al., IEEE TPAMI 44(6), 2022, and its public code.
    """

    training_only = ("alignment", "critics", "generators", "modality_classifier")
    ignored_dims = ()

    def __init__(
        self,
        dims: Mapping[str, Any],
        alignment: str | AlignmentLoss | None = None,
        protocol: Protocol = "honest",
        alignment_weight: float | None = None,
        width: int = 4096,
        dropout: float | None = None,
        learning_rate: float = 1e-4,
    ):
        names = [name for name in dims if name != "class_embedding"]
        if len(names) != 2 or not all(isinstance(dim, int) for dim in dims.values()):
            raise ValueError(
                f"JFSE takes two modalities of vectors, and the data have {', '.join(names)}; choose two by "
                "--data.modalities, features as of OwnData, or a model for items: LAVIMO, CSAligner or CMPM"
            )
        if "class_embedding" not in dims:
            raise ValueError(
                "JFSE embeds the names of the classes, and the data have no labels; add an array or column label, or "
                "choose CMPM, CSAligner or LAVIMO"
            )
        if width < 1 or learning_rate < 0 or not 0 <= (dropout or 0) < 1:
            raise ValueError(
                f"width is {width}, learning_rate {learning_rate} and dropout {dropout}; expected a width of at least "
                "1, no negative learning rate and a dropout in [0, 1)"
            )
        super().__init__(names, protocol=protocol)
        self.set_alignment(alignment)
        self.automatic_optimization = False
        weight, share, output = DEFAULTS[protocol]
        self.alignment_weight = weight if alignment_weight is None else alignment_weight
        self.learning_rate = learning_rate
        self._ranges: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        self._build(dims, width, share if dropout is None else dropout, output)

    def _build(self, dims: Mapping[str, int], width: int, dropout: float, output: type[nn.Module]) -> None:
        target = dims["class_embedding"]
        features = {name: dims[name] for name in self.modalities}
        self.regressors = nn.ModuleDict(
            {name: regressor(d, width, target, output(), dropout) for name, d in features.items()}
        )
        self.generators = nn.ModuleDict(
            {name: generator(target, NOISE_DIM, width, d, output()) for name, d in features.items()}
        )
        self.critics = nn.ModuleDict({name: Critic(d, target, width) for name, d in features.items()})
        self.modality_classifier = ModalityClassifier(target)
        for name, d in dims.items():
            self.register_buffer(f"{name}_mean", torch.zeros(d))
            self.register_buffer(f"{name}_scale", torch.ones(d))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        aligned = [*self.regressors.parameters(), *(self.alignment.parameters() if self.alignment is not None else ())]
        parts = (
            self.critics.parameters(),
            self.generators.parameters(),
            aligned,
            self.modality_classifier.parameters(),
        )
        return [torch.optim.Adam(p, lr=self.learning_rate, betas=(0.5, 0.999), fused=True) for p in parts]

    def prepare_evaluation(self, data: RetrievalData) -> None:
        """As published, the range of the features of every part that is evaluated."""
        if self.protocol == "as_published":
            for split in ("validation", *data.test_splits):
                arrays = data.arrays(split)[0]
                self._ranges |= {(split, name): _range(torch.from_numpy(x)) for name, x in arrays.items() if len(x)}

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.trainer.precision == "16-mixed":  # its scaler changes between the optimisers of one batch
            raise ValueError("JFSE trains in 32-true, 64-true or bf16-mixed; set --trainer.precision to one of these")

    def prepare_training(self, data: RetrievalData) -> None:
        """Mean and scale of the training features and class embeddings."""
        for name in (*self.modalities, "class_embedding") if self.protocol == "honest" else ():
            pooled = name == "class_embedding"
            entries = data.train_entries(name) if pooled else data.entries_to_fit(name)
            mean, variance = mean_and_variance(*entries, correction=0 if pooled else 1)
            if pooled:
                variance = variance.mean().expand_as(variance)
            getattr(self, f"{name}_mean").copy_(mean)
            getattr(self, f"{name}_scale").copy_(torch.where(variance > 0, variance.sqrt(), 1.0))

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Retrieval embeddings R(x), (B, E) per modality; as_published takes the features as they come."""
        return {name: self.regressors[name](self._standardise(name, batch[name])) for name in self.modalities}

    def views(self) -> dict[str, View]:
        if self.protocol == "honest":
            return super().views()

        def scaled(batch: Batch) -> dict[str, Tensor]:
            ranges = {name: self._ranges[batch["split"], name] for name in self.modalities}
            return self.embed({name: _scaled(batch[name], *ranges[name]) for name in self.modalities})

        def softmax(embed: View) -> View:
            return lambda batch: {name: x.softmax(dim=1) for name, x in embed(batch).items()}

        views = {"as they are": self.embed, "min-max": scaled}
        return views | {f"{name}, softmax": softmax(embed) for name, embed in views.items()}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        x = {name: batch[name] for name in (*self.modalities, "class_embedding")}
        if self.protocol == "honest":
            x = {name: self._standardise(name, rows) for name, rows in x.items()}
        else:
            x = {name: _scaled(rows, *_range(gather(rows))) for name, rows in x.items()}
        a = x["class_embedding"]
        noise, mixes = self._draw(a, batch_idx)
        synthetic = {name: g(torch.cat([a, noise[name]], dim=1)) for name, g in self.generators.items()}
        critic_loss = self._train_critics(x, {name: s.detach() for name, s in synthetic.items()}, mixes)
        self.record({"critic": critic_loss, **self._train_others(x, synthetic, batch["label"])})

    def _draw(self, a: Tensor, batch_idx: int) -> tuple[Batch, list[Batch]]:
        """Noise, and mixing weights of every critic step: this process's rows of one draw for the global batch."""
        rank, processes = world()
        rows, like = len(a) * processes, {"device": a.device, "dtype": a.dtype}
        if rank > 0:
            self._seed(batch_idx, rank=0)
        # DistributedSampler deals items out in turn: row i of this process is row rank + i * processes of the whole.
        noise = {name: torch.randn(rows, NOISE_DIM, **like)[rank::processes] for name in self.modalities}
        mixes = [
            {name: torch.rand(rows, 1, **like)[rank::processes] for name in self.modalities}
            for _ in range(CRITIC_STEPS)
        ]
        if rank > 0:
            self._seed(batch_idx, rank)  # for dropout, which differs between processes
        return noise, mixes

    def _train_critics(self, x: Batch, synthetic: Batch, mixes: Sequence[Batch]) -> Tensor:
        optimizer, a = self.optimizers()[0], x["class_embedding"]
        for mix in mixes:
            loss = sum(critic.loss(x[name], synthetic[name], a, mix[name]) for name, critic in self.critics.items())
            self._backward(optimizer, loss)
            optimizer.step()
        return loss

    def _train_others(self, x: Batch, synthetic: Batch, labels: Tensor) -> dict[str, Tensor]:
        a, strength = x["class_embedding"], self._reversal_strength()
        both = {name: r(torch.cat([x[name], synthetic[name]])).chunk(2) for name, r in self.regressors.items()}
        real, cycled = ({name: halves[i] for name, halves in both.items()} for i in (0, 1))
        original = sum(F.mse_loss(real[name], a) for name in self.modalities)
        cycle = sum(F.mse_loss(cycled[name], a) for name in self.modalities)
        adversarial_real = self.modality_classifier.loss(*real.values(), strength)
        adversarial_synthetic = self.modality_classifier.loss(*cycled.values(), strength)
        align_real, align_synthetic = self._align(real, labels), self._align(cycled, labels)
        realism = sum(critic(synthetic[name], a).mean() for name, critic in self.critics.items())
        cycle_terms = cycle + 0.01 * adversarial_synthetic

        generator_loss = -realism + 0.1 * cycle_terms
        regressor_loss = original + align_real + 0.01 * adversarial_real + 0.01 * (cycle_terms + align_synthetic)
        classifier_loss = adversarial_synthetic + adversarial_real
        _, generators, regressors, classifier = self.optimizers()
        # All gradients are taken before any step, so that no loss sees weights that its graph was not built with.
        self._backward(generators, generator_loss, retain_graph=True)
        self._backward(regressors, regressor_loss, retain_graph=True)
        self._backward(classifier, classifier_loss)
        for optimizer in (generators, regressors, classifier):
            optimizer.step()
        return {
            "generator": generator_loss,
            "regressor": regressor_loss,
            "modality_classifier": classifier_loss,
            "original": original,
            "cycle": cycle,
            "align_real": align_real,
            "align_synthetic": align_synthetic,
        }

    def _align(self, embeddings: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        if self.alignment is None:
            return torch.zeros((), device=self.device)
        return self.alignment_weight * self.alignment(embeddings, labels).total

    def _backward(self, optimizer: torch.optim.Optimizer, loss: Tensor, **kwargs) -> None:
        """Gradients of an optimiser's parameters, averaged over processes."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for parameter in parameters:  # what zero_grad does, without its entry for the profiler
            parameter.grad = None
        strategy = self.trainer.strategy
        # DistributedDataParallel averages once per forward pass, and expects every parameter to have a gradient then.
        with strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext():
            self.manual_backward(loss, inputs=parameters, **kwargs)
        _average_over_processes([parameter.grad for parameter in parameters])

    def _reversal_strength(self) -> float:
        progress = self.current_epoch / max(self.trainer.max_epochs, 1)
        return 2 / (1 + math.exp(-10 * progress)) - 1

    def _standardise(self, name: str, x: Tensor) -> Tensor:
        return (x - getattr(self, f"{name}_mean")) / getattr(self, f"{name}_scale")


def _average_over_processes(gradients: Sequence[Tensor]) -> None:
    _, processes = world()
    if processes > 1:
        flat = parameters_to_vector(gradients)
        dist.all_reduce(flat)
        vector_to_parameters(flat / processes, gradients)


def _range(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Least value of every column, and the distance of the largest from it."""
    low = rows.amin(dim=0)
    return low, rows.amax(dim=0) - low


def _scaled(x: Tensor, low: Tensor, span: Tensor) -> Tensor:
    """Every column of x, scaled so that its range becomes 0 to 1."""
    low, span = low.to(x), span.to(x)
    return (x - low) / torch.where(span > 0, span, torch.ones_like(span))
