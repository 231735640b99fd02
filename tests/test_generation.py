"""Images from features by an unCLIP pipeline. Its networks are tiny and random: what they paint shows nothing."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import cs_aligner, few
from training import predicted, trainer

from datamodules import DataError
from lightning_modules.serving.generation import generate_images

pytest.importorskip("diffusers", reason="needs the extra `generation`")

WIDTH, SIDE = 8, 32


def random_pipeline():
    """An UnCLIPImageVariationPipeline of tiny networks with random weights, and a tokenizer of one word."""
    from diffusers import UnCLIPImageVariationPipeline, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "a</w>": 3}
    numbers = {"vocab_size": 4, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = CLIPTextConfig(**{**size, "hidden_size": WIDTH}, projection_dim=WIDTH, **numbers)
    vision = CLIPVisionConfig(**size, projection_dim=WIDTH, image_size=SIDE, patch_size=16)
    blocks = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
    plain = {"down_block_types": ("ResnetDownsampleBlock2D",) * 2, "up_block_types": ("ResnetUpsampleBlock2D",) * 2}
    crossed = {
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    }
    attention = {"cross_attention_dim": 12, "attention_head_dim": 4, "resnet_time_scale_shift": "scale_shift"}
    context = {"clip_extra_context_tokens": 2, "time_embed_dim": 64, "cross_attention_dim": 12}
    small = {"sample_size": SIDE // 2, "in_channels": 3, "out_channels": 6, "class_embed_type": "identity"}
    larger = {"sample_size": SIDE, "in_channels": 6, "out_channels": 3, **blocks, **plain}
    steps = {"prediction_type": "epsilon", "num_train_timesteps": 100}
    return UnCLIPImageVariationPipeline(
        decoder=UNet2DConditionModel(**small, **blocks, **crossed, **attention),
        text_encoder=CLIPTextModelWithProjection(text).eval(),
        tokenizer=CLIPTokenizer(vocab=words, merges=[], model_max_length=8),
        text_proj=UnCLIPTextProjModel(clip_embeddings_dim=WIDTH, **context),
        feature_extractor=CLIPImageProcessor(crop_size=SIDE, size=SIDE),
        image_encoder=CLIPVisionModelWithProjection(vision).eval(),
        super_res_first=UNet2DModel(**larger),
        super_res_last=UNet2DModel(**larger),
        decoder_scheduler=UnCLIPScheduler(variance_type="learned_range", **steps),
        super_res_scheduler=UnCLIPScheduler(variance_type="fixed_small_log", **steps),
    )


@pytest.fixture(scope="module")
def pipeline():
    made = random_pipeline()
    made.set_progress_bar_config(disable=True)
    return made


def features(count: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


def test_every_row_becomes_an_image_that_depends_on_it_alone(pipeline):
    rows = features(6)
    images = generate_images(rows, pipeline, steps=2)
    assert [image.size for image in images] == [(SIDE, SIDE)] * 6
    assert [image.mode for image in images] == ["RGB"] * 6
    found = pixels(images).astype(int)
    assert all((found[i] != found[j]).any() for i in range(6) for j in range(i))
    alone = pixels(generate_images(rows[3:4].numpy(), pipeline, steps=2)).astype(int)
    assert np.abs(alone[0] - found[3]).max() <= 1  # sums of another order


def test_features_stand_for_what_the_image_encoder_makes_of_an_image(pipeline):
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(size=(1, 3, SIDE, SIDE))).float()
    with torch.no_grad():
        encoded = pipeline.image_encoder(image).image_embeds
    noise = [torch.Generator().manual_seed(0)]
    expected = pipeline(image=image, decoder_num_inference_steps=2, generator=noise).images
    np.testing.assert_array_equal(pixels(generate_images(encoded, pipeline, steps=2)), pixels(expected))


def test_texts_adapted_to_image_features_become_images(pipeline, tmp_path):
    data = few(image_dim=WIDTH)
    module = cs_aligner(data, target="image")
    trainer(tmp_path).fit(module, data)
    images = generate_images(predicted(tmp_path, module, data)["text"][:2], pipeline, steps=2)
    assert (pixels(images)[0] != pixels(images)[1]).any()


def test_a_pipeline_in_a_folder_is_the_same_pipeline_in_single_precision(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "pipeline")
    rows = features(1)
    read, held = (pixels(generate_images(rows, one, steps=2)) for one in (tmp_path / "pipeline", pipeline))
    assert np.abs(read.astype(int) - held).max() <= 1  # sums of another order
    saved = random_pipeline()
    saved.text_encoder.half()
    saved.decoder.half()
    saved.save_pretrained(tmp_path / "half")
    assert pixels(generate_images(rows, tmp_path / "half", steps=2)).shape == (1, SIDE, SIDE, 3)


@pytest.mark.parametrize("part", ["text_encoder/model", "decoder/diffusion_pytorch_model"])
def test_a_pipeline_that_lacks_weights_is_refused(pipeline, tmp_path, part):
    pipeline.save_pretrained(tmp_path)
    path = tmp_path / f"{part}.safetensors"
    weights = load_file(path)
    gone = sorted(weights)[0]
    save_file({name: x for name, x in weights.items() if name != gone}, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match=f"{part.split('/')[0]} lacks weights: {gone}"):
        generate_images(features(1), tmp_path, steps=2)


@pytest.mark.parametrize("rows", [torch.zeros(2, WIDTH + 1), torch.zeros(WIDTH), torch.full((1, WIDTH), torch.nan)])
def test_features_that_do_not_fit_are_refused(pipeline, rows):
    with pytest.raises(ValueError, match=rf"expected finite ones of shape \(n, {WIDTH}\)"):
        generate_images(rows, pipeline)


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere cannot be loaded from this machine"):
        generate_images(torch.zeros(1, WIDTH), tmp_path / "nowhere")
