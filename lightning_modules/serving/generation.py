"""Images from features of images: what CS-Aligner's adapted texts can be decoded to. Needs the extra `generation`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import torch
from PIL import Image
from torch import Tensor, nn

from datamodules.errors import DataError

if TYPE_CHECKING:
    from diffusers import UnCLIPImageVariationPipeline

IMAGES_AT_ONCE = 4


def generate_images(
    features: Tensor, pipeline: str | Path | UnCLIPImageVariationPipeline, steps: int = 25, seed: int = 0
) -> list[Image.Image]:
    """Decode image features to images with an unCLIP image-variation pipeline.

    Texts become images by way of a :class:`lightning_modules.CSAligner` with ``target="image"``, trained on features of
    the pipeline's own image encoder: pass the array ``text`` that ``csd predict`` writes. The noise of every image has
    the same seed: an image depends on its own row alone.

    Args:
        features: (n, D) image features, or embeddings in their space.
        pipeline: the pipeline, its local folder, or the name of one whose files are on this machine.
        steps: denoising steps of the decoder.
        seed: of the noise.

    Raises:
        DataError: the pipeline's files are missing or damaged.
        ValueError: features of another shape or width, or not finite.

    Source: Ramesh et al., arXiv 2204.06125 (unCLIP), as arXiv 2502.17028 uses it.
    """
    pipeline = _load(str(pipeline)) if isinstance(pipeline, str | Path) else pipeline
    features, width = torch.as_tensor(features), pipeline.image_encoder.config.projection_dim
    if features.shape != (len(features), width) or not features.isfinite().all():
        raise ValueError(
            f"features have shape {tuple(features.shape)}; expected finite ones of shape (n, {width}), of the "
            "pipeline's own image encoder or adapted to its space"
        )
    images: list[Image.Image] = []
    for part in features.to(pipeline.image_encoder.device, pipeline.image_encoder.dtype).split(IMAGES_AT_ONCE):
        generators = [torch.Generator().manual_seed(seed) for _ in part]
        images += pipeline(image_embeddings=part, decoder_num_inference_steps=steps, generator=generators).images
    return images


def _load(folder: str) -> UnCLIPImageVariationPipeline:
    from diffusers import UnCLIPImageVariationPipeline

    parts: dict[str, Any] = {}
    try:
        # Part by part: this pipeline's own loader no longer finds the class that diffusers moved among deprecated ones.
        for name, kind in get_type_hints(UnCLIPImageVariationPipeline.__init__).items():
            place = {"subfolder": name, "local_files_only": True}
            if name != "return" and not issubclass(kind, nn.Module):
                parts[name] = kind.from_pretrained(folder, **place)
            elif name != "return":
                # In single precision, whatever the files are in.
                precision = "dtype" if kind.__module__.startswith("transformers.") else "torch_dtype"
                settings = {**place, precision: torch.float32, "output_loading_info": True}
                parts[name], found = kind.from_pretrained(folder, **settings)
                if found["missing_keys"]:  # which would be random
                    raise ValueError(f"{name} lacks weights: {', '.join(sorted(found['missing_keys'])[:5])}")
    except Exception as error:  # diffusers, transformers and safetensors each refuse in their own way
        raise DataError(
            f"pipeline {folder} cannot be loaded from this machine ({type(error).__name__}: {error}); name the folder "
            "of an UnCLIPImageVariationPipeline, such as one that `hf download` fetched"
        ) from error
    return UnCLIPImageVariationPipeline(**parts)
