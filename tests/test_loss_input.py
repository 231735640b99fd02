"""The registry of losses, and what losses refuse."""

import doctest
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
import torch
from loss_cases import BATCH, LABELS, MULTI_HOT, NEED_LABELS, OF_PAIRS, make_embeddings, soft_target
from torch import nn

import losses
from losses import LossOutput, available_losses, build_loss, register_loss, registry

# Registry


def test_available_losses_are_those_of_the_readme():
    of_contract = "cmpm_kl kl cs gcs mmd coral log_coral infonce kernel_cs pairwise mil_nce gram symile"
    assert set(available_losses()) == {*of_contract.split(), "kernel_gcs", "gcs_clamped", "gcs_product"}
    assert available_losses() == sorted(available_losses())
    assert all(hasattr(losses, type(build_loss(name)).__name__) for name in available_losses())


def test_a_file_in_the_folder_registers_by_being_there(tmp_path):
    shutil.copytree(Path(losses.__file__).parent, tmp_path / "losses")
    source = (tmp_path / "losses" / "infonce.py").read_text(encoding="utf-8")
    (tmp_path / "losses" / "mine.py").write_text(source.replace("infonce", "mine").replace("InfoNCE", "Mine"))
    said = (
        "import sys, losses; print(losses.build_loss('mine'), losses.MineLoss); "
        "print({name.partition('.')[0] for name in sys.modules} & {'lightning', 'datamodules', 'torchmetrics'})"
    )
    own = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", said], cwd=tmp_path, env=own, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["MineLoss(temperature=0.1) <class 'losses.mine.MineLoss'>", "set()"]


@pytest.mark.parametrize("name", [each.name for each in iter_modules(losses.__path__)])
def test_examples_in_docstrings_are_right(name):
    module = import_module(f"losses.{name}")
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


def test_the_page_on_adding_a_loss_shows_a_loss_of_forty_lines():
    root = Path(losses.__file__).parents[1]
    example = (root / "losses" / "mil_nce.py").read_text(encoding="utf-8")
    assert example in (root / "docs" / "add-a-loss.md").read_text(encoding="utf-8")
    assert len(example.splitlines()) <= 40


@pytest.mark.parametrize(("wrong", "nearest"), [("infonec", "infonce"), ("log-coral", "log_coral"), ("Gcs", "gcs")])
def test_unknown_loss_names_the_nearest(wrong, nearest):
    with pytest.raises(ValueError, match=f"{wrong}.*{nearest}"):
        build_loss(wrong)


def test_a_name_in_other_case_names_one_a_misspelt_one_three_at_most_and_none_is_null():
    for wrong, right in (("GCS", "gcs"), ("Coral", "coral")):
        with pytest.raises(ValueError, match=f"nearest: {right}$"):
            build_loss(wrong)
    with pytest.raises(ValueError, match=r"nearest: [a-z_]+, [a-z_]+, [a-z_]+$"):
        build_loss("gcs_")
    for none in ("None", "null"):
        with pytest.raises(ValueError, match=f"'{none}'; .*null"):
            build_loss(none)


@pytest.mark.parametrize(
    ("name", "wrong", "nearest"),
    [
        ("cs", "temprature", "temperature"),
        ("gcs", "use_targets", "use_target"),
        ("gcs", "Scheme", "scheme"),
        ("kl", "directoin", "direction"),
        ("pairwise", "divergance", "divergence"),
        ("gram", "anchors", "anchor"),
        ("symile", "negative", "negatives"),
        ("coral", "temperature", "it takes none"),
        ("cmpm_kl", "temperature", "it takes none"),
    ],
)
def test_unknown_keyword_names_the_nearest(name, wrong, nearest):
    with pytest.raises(TypeError, match=rf"{name}.*{wrong}.*\b{nearest}\b"):
        build_loss(name, **{wrong: 1})


def test_registered_loss_can_be_built_and_not_registered_twice(monkeypatch):
    monkeypatch.setattr(registry, "_LOSSES", dict(registry._LOSSES))  # other tests see the losses of the suite alone

    @register_loss("norm_gap_of_the_tests")
    class NormGap(nn.Module):
        def __init__(self, weight: float = 1.0) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, embeddings, labels=None):
            a, b = embeddings.values()
            gap = self.weight * (a.norm() - b.norm()) ** 2
            return LossOutput(total=gap, parts={"gap": gap.detach()})

    assert "norm_gap_of_the_tests" in available_losses()
    assert isinstance(build_loss("norm_gap_of_the_tests", weight=2.0), NormGap)
    for name in ("norm_gap_of_the_tests", "cs"):
        with pytest.raises(ValueError, match=name):
            register_loss(name)(NormGap)
    assert not isinstance(build_loss("cs"), NormGap)


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("gcs", {"scheme": "clockwize"}),
        ("kl", {"direction": "sideways"}),
        ("symile", {"negatives": "some"}),
        ("mmd", {"sigma": []}),
        ("log_coral", {"ridge": -1.0}),
        *[
            (name, {"temperature": bad})
            for name in ("kl", "cs", "gcs", "infonce", "mil_nce", "gram")
            for bad in (0.0, -0.1)
        ],
        *[(name, {"sigma": bad}) for name in ("mmd", "kernel_cs", "kernel_gcs") for bad in (0.0, -1.0, float("inf"))],
        *[("gcs_clamped", {"epsilon": bad}) for bad in (0.0, 1.0, float("nan"))],
        *[("gram", {"label_smoothing": bad}) for bad in (-0.1, 1.0)],
        *[("symile", {"logit_scale": bad}) for bad in (0.0, -1.0, float("inf"))],
    ],
)
def test_impossible_setting_is_refused_when_the_loss_is_built(name, keywords):
    with pytest.raises(ValueError, match=next(iter(keywords))):
        build_loss(name, **keywords)


# Bad input


ALL_LOSSES = available_losses()
OF_SEVERAL = [name for name in ALL_LOSSES if not build_loss(name).takes_two]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(lambda x: x.index_fill(0, torch.tensor([3]), float("nan")), id="nan"),
        pytest.param(lambda x: x.index_fill(0, torch.tensor([3]), float("inf")), id="inf"),
        pytest.param(lambda x: x[:-1], id="rows"),
        pytest.param(lambda x: x[:, :-1], id="columns"),
        pytest.param(lambda x: x[:, 0], id="1-D"),
        pytest.param(lambda x: x[None], id="3-D"),
        pytest.param(lambda x: x.long(), id="integer"),
        pytest.param(lambda x: x[:0], id="no rows"),
    ],
)
@pytest.mark.parametrize("name", ALL_LOSSES)
def test_bad_embeddings_name_the_modality(name, bad):
    embeddings = make_embeddings(3 if name in OF_SEVERAL else 2)
    last = list(embeddings)[-1]
    embeddings[last] = bad(embeddings[last])
    with pytest.raises(ValueError, match=last):
        build_loss(name)(embeddings, LABELS["integer"])


@pytest.mark.parametrize(
    ("name", "keywords"), [("cmpm_kl", {}), ("coral", {}), ("log_coral", {"ridge": 1.0}), ("mmd", {})]
)
def test_embeddings_whose_powers_overflow_are_refused_in_float32_alone(name, keywords):
    large = {key: 1e35 * x for key, x in make_embeddings(batch=12).items()}
    for loss in (build_loss(name, **keywords), build_loss("pairwise", divergence=name, **keywords)):
        with pytest.raises(ValueError, match=r"image.*too large"):
            loss({key: x.float() for key, x in large.items()}, torch.arange(12))
    if name != "log_coral":  # whose covariance is singular beside a ridge of 1
        assert build_loss(name)(large, torch.arange(12)).total.isfinite()
    assert build_loss("cs")({key: x.float() for key, x in large.items()}, torch.arange(12)).total.isfinite()


@pytest.mark.parametrize(("name", "scale"), [("cmpm_kl", 1e31), ("coral", 1e6), ("log_coral", 1e15), ("mmd", 1e15)])
def test_large_embeddings_whose_powers_do_not_overflow_are_taken(name, scale):
    large = {key: (scale * x).float() for key, x in make_embeddings(batch=12).items()}
    assert build_loss(name)(large, torch.arange(12)).total.isfinite()


def test_embeddings_whose_sum_overflows_are_taken():
    large = {key: (1000 * x.abs()).half() for key, x in make_embeddings(batch=60).items()}
    assert large["image"].isfinite().all()
    assert large["image"].sum().isinf()
    assert build_loss("cs")(large, torch.arange(60)).total.isfinite()


@pytest.mark.parametrize("name", ["cmpm_kl", "coral", "mmd"])
def test_wide_embeddings_are_refused_before_the_loss_overflows(name):
    sign = torch.ones(64, 1).index_fill(0, torch.arange(0, 64, 2), -1.0).expand(64, 2048)
    refused = 0
    for scale in 10.0 ** torch.arange(5, 38, 0.25):
        try:
            assert build_loss(name)({"image": scale * sign, "text": sign}, torch.arange(64)).total.isfinite()
        except ValueError:
            refused += 1
    assert refused


FLOAT32 = {key: x.float() for key, x in make_embeddings().items()}
NO_ROWS = {key: x[:0] for key, x in make_embeddings().items()}
SEQUENCES = {key: x[:, None] for key, x in make_embeddings().items()}
NO_COLUMNS = {key: x[:, :0] for key, x in make_embeddings().items()}
# loss, keywords, embeddings, labels, what is said
REFUSED = [
    *[(name, {}, NO_ROWS, torch.zeros(0, dtype=torch.long), "image") for name in ALL_LOSSES],
    *[(name, {}, NO_COLUMNS, LABELS["integer"], "image.*empty") for name in ALL_LOSSES],
    *[(name, {}, SEQUENCES, LABELS["integer"], "image") for name in ALL_LOSSES],
    *[(name, {}, make_embeddings(1), LABELS["integer"], "image") for name in ALL_LOSSES],
    *[(name, {}, {}, LABELS["integer"], "modalit") for name in ALL_LOSSES],
    *[(name, {}, make_embeddings(3), None, r"got 3 .*image, text, audio.*`pairwise`.*`gcs` and") for name in OF_PAIRS],
    *[(name, {}, make_embeddings(), None, r"needs.*labels|labels.*need") for name in NEED_LABELS],
    *[(name, {}, FLOAT32, torch.full((BATCH, BATCH), 3e38), "target weights are too large") for name in NEED_LABELS],
    *[
        ("kl", {"direction": "reverse"}, make_embeddings(), LABELS[kind], "cmpm_kl")
        for kind in ("integer", "multi-hot", "soft")
    ],
    ("log_coral", {}, make_embeddings(batch=4, width=6), None, "ridge"),
    ("coral", {}, make_embeddings(batch=1), None, "two items"),
    ("log_coral", {"ridge": 0.1}, make_embeddings(batch=1), None, "two items"),
]


@pytest.mark.parametrize(("name", "keywords", "embeddings", "labels", "said"), REFUSED)
def test_what_does_not_suit_a_loss_is_refused(name, keywords, embeddings, labels, said):
    with pytest.raises(ValueError, match=said):
        build_loss(name, **keywords)(embeddings, labels)


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(LABELS["integer"][:-1], id="integer rows"),
        pytest.param(MULTI_HOT[:-1], id="multi-hot rows"),
        pytest.param(soft_target()[:-1], id="soft rows"),
        pytest.param(soft_target()[:, :-1], id="soft columns"),
        pytest.param(torch.zeros(BATCH, BATCH, 1), id="3-D"),
        pytest.param(torch.tensor(0), id="0-D"),
        pytest.param(soft_target().index_fill(0, torch.tensor([1]), 0.0), id="zero row"),
        pytest.param(soft_target().index_fill(1, torch.tensor([1]), 0.0), id="zero column"),
        pytest.param(soft_target() - 0.5, id="negative weights"),
        pytest.param(soft_target() - 0.01, id="negative weights in rows of positive sums"),
        pytest.param(2 * MULTI_HOT, id="counts"),
        pytest.param(LABELS["integer"].cfloat(), id="complex"),
        pytest.param(soft_target().index_fill(0, torch.tensor([1]), float("nan")), id="nan"),
        pytest.param(soft_target().index_fill(0, torch.tensor([1]), float("inf")), id="inf"),
    ],
)
@pytest.mark.parametrize("name", NEED_LABELS)
def test_bad_labels_are_refused(name, labels):
    with pytest.raises(ValueError, match=r"label|target"):
        build_loss(name)(make_embeddings(), labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("defect", ["constant column", "repeated column", "repeated rows"])
@pytest.mark.parametrize("seed", range(3))
def test_log_coral_of_a_singular_covariance_of_many_items_names_the_ridge(defect, dtype, seed):
    """Rounding leaves the smallest eigenvalue near, not at, zero; its logarithm would be noise."""
    embeddings = make_embeddings(batch=12, seed=seed)
    text = embeddings["text"]
    if defect == "constant column":
        text[:, 1] = 0.3
    elif defect == "repeated column":
        text[:, 1] = text[:, 2]
    else:
        text[:] = text[:3].repeat(4, 1)
    with pytest.raises(ValueError, match="ridge"):
        build_loss("log_coral")({key: x.to(dtype) for key, x in embeddings.items()})
