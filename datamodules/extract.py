"""`python -m datamodules extract <data set>`: raw images, texts and sounds to a file of frozen networks' features."""

import argparse
import json
from collections.abc import Callable
from functools import partial
from os.path import expanduser
from pathlib import Path

import datamodules
from datamodules.check import open_form
from datamodules.datasets import DATASETS
from datamodules.features.extraction import DescribedNetwork, extract_features
from datamodules.files.extracted_features import read_metadata
from datamodules.files.sources import data_root, user_path
from datamodules.paired_features import FeatureDataModule
from datamodules.retrieval_data import RetrievalData

Loader = Callable[[], DescribedNetwork]
# Networks and their weights.
MODELS = {
    "image": "a timm model, e.g. vgg19, or a CLIP model or its folder",
    "text": "a sentence-transformers or CLIP model, or its folder",
    "sound": "a torchaudio bundle, e.g. wav2vec2_base",
    "image-weights": "its weights; 'installed' for those of tf_efficientnet_lite0 (default: fetched from the hub)",
    "sound-weights": "its weights (default: fetched from their publisher)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of the command."""
    parser.description = (
        "Put a data set's raw images, texts and sounds through frozen networks and write their features to a file that "
        "the data module OwnData reads. Modalities without a network are left out and need not be there. A run "
        "that was stopped goes on where it was when it is called again in the same way."
    )
    parser.add_argument("dataset", choices=[name for name in DATASETS if raw_forms(name)])
    parser.add_argument("--features", help="what the data set is read as (default: the first whose files are there)")
    for option, said in MODELS.items():
        metavar = "FILE" if option.endswith("weights") else "MODEL"
        parser.add_argument(f"--{option}", type=expanduser, metavar=metavar, help=said)
    parser.add_argument(
        "--drop", action="store_true", help="leave out items that lack a modality, or with a broken file"
    )
    parser.add_argument("--data-root", help="folder that holds the data set's folder (default: CSD_DATA, else data/)")
    parser.add_argument("--out", type=user_path, metavar="FILE.safetensors", help="(default: <data set>.safetensors)")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Extract the features, say what made them, and return 0.

    Raises:
        ValueError: something is missing, unknown or broken.
        OSError: the file cannot be written.
    """
    out = arguments.out or Path(f"{arguments.dataset}.safetensors")
    if out.suffix != ".safetensors":
        raise ValueError(f"--out is {out}; expected a name ending in .safetensors")
    networks = _networks(arguments)
    module = _module(arguments, tuple(networks))
    written, modalities = extract_features(module, networks, out), module.data.modalities
    print(f"{'wrote' if written else 'there already:'} {out}, {len(module.data)} items")
    for name, said in json.loads(read_metadata(out)["encoders"]).items():
        made = f"{said['model']} ({said['weights']}; sha256 {said['sha256'][:12]})"
        print(f"  {name}: {len(modalities[name].entries)} entries through {made}")
    return 0


def _networks(arguments: argparse.Namespace) -> dict[str, Loader]:
    """Modality -> what loads the network that was named for it, in the order of the data sets."""
    from datamodules.features.networks import ImageNetwork, SentenceNetwork, SoundNetwork  # takes seconds

    clip = arguments.image is not None and _brings_weights(arguments.image)
    for kind in ("image", "sound"):
        model, weights = getattr(arguments, kind), getattr(arguments, f"{kind}_weights")
        if weights is not None and model is None:
            raise ValueError(f"--{kind}-weights are given and no --{kind}; name the model that they belong to")
    if clip and arguments.image_weights is not None:
        raise ValueError(f"--image-weights are given, and --image {arguments.image} brings its own; leave one out")
    image = (SentenceNetwork, "image") if clip else (ImageNetwork, arguments.image_weights)
    named = {
        "image": (arguments.image, image),
        "text": (arguments.text, (SentenceNetwork,)),
        "audio": (arguments.sound, (SoundNetwork, arguments.sound_weights)),
    }
    networks = {
        name: partial(network, model, *more) for name, (model, (network, *more)) in named.items() if model is not None
    }
    if len(networks) < 2:
        raise ValueError("expected networks for two modalities or more: name them by --image, --text and --sound")
    return networks


def _brings_weights(model: str) -> bool:
    """Whether an image model is of sentence-transformers or CLIP: a folder, or a name on the hub, but none of timm."""
    return Path(model).is_dir() or ("/" in model and not model.startswith(("timm/", "hf-hub:", "hf_hub:")))


def raw_forms(dataset: str) -> list[str]:
    """The forms of a data set that hold what features are extracted from."""
    forms = DATASETS[dataset].forms
    return [name for name, f in forms.items() if not issubclass(getattr(datamodules, f.class_path), FeatureDataModule)]


def default_form(dataset: str, root: Path) -> str:
    """The form in which a data set's items are read where none is asked for: the first whose files are all there.

    Where there is none, that which lacks the fewest, for its reader to say what is missing.

    Args:
        dataset: one that has such forms.
        root: the data root.
    """
    declared, forms = DATASETS[dataset], raw_forms(dataset)
    lacks = declared.lacking(declared.folder_below(root))
    return min((form for form in forms if form in lacks), key=lambda form: len(lacks[form]), default=forms[0])


def _module(arguments: argparse.Namespace, modalities: tuple[str, ...]) -> RetrievalData:
    """The data set with the modalities that have a network; the others need not be there."""
    root, forms = data_root(arguments.data_root), raw_forms(arguments.dataset)
    form = arguments.features or default_form(arguments.dataset, root)
    if form not in forms:
        raise ValueError(f"{arguments.dataset} cannot be read as {form!r}; it can as {', '.join(forms)}")
    choice = "drop" if arguments.drop else "refuse"
    chosen = {"modalities": modalities, "on_missing": choice, "on_broken": choice}
    return open_form(DATASETS[arguments.dataset], form, root, **chosen)
