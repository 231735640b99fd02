"""Images from features of images: what CS-Aligner's adapted texts can be decoded to. Needs the extra `generation`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from datamodules.errors import DataError
from datamodules.items import listed

if TYPE_CHECKING:
    from diffusers import UnCLIPImageVariationPipeline

IMAGES_AT_ONCE = 4


def generate_images(
    features: Tensor | np.ndarray,
    pipeline: str | Path | UnCLIPImageVariationPipeline,
    steps: int = 25,
    seed: int = 0,
) -> list[Image.Image]:
    """Decode image features to images with an unCLIP image-variation pipeline.

    The features take the place of what the pipeline's image encoder makes of an image. Texts become images by way of a
    :class:`lightning_modules.CSAligner` with ``target="image"``, trained on features of that same encoder: the array
    ``text`` that ``csd predict`` writes is what to hand in here. Every image starts from the noise of the same seed, so
    that it depends on its own row alone, and images differ by their features.

    Args:
        features: (n, D) image features, or embeddings in their space.
        pipeline: the pipeline, or the local folder or name of one whose files are on this machine.
        steps: denoising steps of the decoder; the two networks that enlarge the image take the pipeline's own number.
        seed: of the noise.

    Returns:
        n images.

    Raises:
        ImportError: diffusers is not installed.
        DataError: the pipeline's files are not on this machine or are damaged.
        TypeError: another pipeline.
        ValueError: features of another shape or width, or not finite, or no steps.

    Source: Ramesh et al., arXiv 2204.06125 (unCLIP), as arXiv 2502.17028 uses it.
    """
    pipeline = _pipeline(pipeline)
    features = torch.as_tensor(features)
    _check(features, pipeline, steps)
    encoder = pipeline.image_encoder
    features = features.to(encoder.device, encoder.dtype)
    images: list[Image.Image] = []
    for part in features.split(IMAGES_AT_ONCE):
        generators = [torch.Generator().manual_seed(seed) for _ in part]
        images += pipeline(image_embeddings=part, decoder_num_inference_steps=steps, generator=generators).images
    return images


def _pipeline(pipeline: Any) -> UnCLIPImageVariationPipeline:
    try:
        from diffusers import UnCLIPImageVariationPipeline
    except ImportError as error:
        raise ImportError(
            "generating images needs diffusers, which is not installed: pip install 'csd-retrieval[generation]'"
        ) from error
    if isinstance(pipeline, UnCLIPImageVariationPipeline):
        return pipeline
    if not isinstance(pipeline, str | Path):
        raise TypeError(f"the pipeline is a {type(pipeline).__name__}; expected UnCLIPImageVariationPipeline")
    try:
        # Part by part: this pipeline's own loader no longer finds the class that diffusers moved among deprecated ones.
        kinds = get_type_hints(UnCLIPImageVariationPipeline.__init__)
        parts = {name: _part(kind, str(pipeline), name) for name, kind in kinds.items() if name != "return"}
        return UnCLIPImageVariationPipeline(**parts)
    except DataError:
        raise
    except Exception as error:  # diffusers, transformers and safetensors each refuse in their own way
        raise DataError(
            f"pipeline {pipeline} cannot be loaded from this machine ({type(error).__name__}: {error}); name the "
            "folder of an UnCLIPImageVariationPipeline, such as one that `hf download` fetched"
        ) from error


def _part(kind: type, pipeline: str, name: str) -> Any:
    """A network, tokenizer or scheduler of a pipeline, refused where weights are missing, which would be random."""
    place = {"subfolder": name, "local_files_only": True}
    if not issubclass(kind, nn.Module):
        return kind.from_pretrained(pipeline, **place)
    # In single precision, whatever the files are in: transformers would take theirs, and diffusers its own.
    precision = {"dtype" if kind.__module__.startswith("transformers.") else "torch_dtype": torch.float32}
    network, found = kind.from_pretrained(pipeline, output_loading_info=True, **place, **precision)
    if found["missing_keys"]:
        raise DataError(
            f"pipeline {pipeline} lacks weights of its {name}, which would be random: "
            f"{listed(sorted(found['missing_keys']))}; fetch it again"
        )
    return network


def _check(features: Tensor, pipeline: UnCLIPImageVariationPipeline, steps: int) -> None:
    encoded = pipeline.image_encoder.config.projection_dim
    decoded = pipeline.text_proj.learned_classifier_free_guidance_embeddings.shape[-1]
    if encoded != decoded:
        raise ValueError(f"the pipeline's image encoder returns {encoded} values, and its decoder reads {decoded}")
    if features.ndim != 2 or features.shape[1] != decoded or not len(features):
        raise ValueError(
            f"features have shape {tuple(features.shape)}, and the pipeline decodes (n, {decoded}): they must be of "
            "the pipeline's own image encoder, or adapted to its space"
        )
    if not features.is_floating_point() or not bool(features.isfinite().all()):
        raise ValueError(f"features must be finite floating numbers, got {features.dtype}")
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected at least 1")
