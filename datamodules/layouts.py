"""Data sets that are not fetched: the layout their authors ship, where they are, and under which terms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datamodules.features import DataError, DataMissing
from datamodules.sources import data_root, root_is_named


@dataclass(frozen=True)
class Layout:
    """One data set: its folder below the data root, what stands in it, where to get it, its terms, whom to cite."""

    folder: str
    content: str
    url: str
    licence: str
    citation: str


_MOTION = (
    "new_joint_vecs/<id>.npy ({width} numbers per frame), texts/<id>.txt (lines caption#tokens#start#end), train.txt, "
    "val.txt and test.txt (one id per line)"
)

LAYOUTS = {
    "utd_mhad": Layout(
        folder="utd_mhad",
        content="class_names.txt (27 lines), and either utd_mhad_depth_skeleton_inertial_16f.npz or the folders "
        "Skeleton/a*_s*_t*_skeleton.mat (d_skel 20 x 3 x T), Inertial/a*_s*_t*_inertial.mat (d_iner T x 6) and "
        "Depth/a*_s*_t*_depth.mat (d_depth 240 x 320 x T)",
        url="https://personal.utdallas.edu/~kehtar/UTD-MHAD.html",
        licence="none stated",
        citation="C. Chen, R. Jafari and N. Kehtarnavaz, UTD-MHAD, ICIP 2015",
    ),
    "flickr8k_tri": Layout(
        folder="flickr8k_tri",
        content="images/<name>.jpg, audio/<name>.wav (24 kHz mono, MP3 inside) and captions.txt (CSV with the header "
        "image,caption and five lines per image)",
        url="https://github.com/quantumnaan/sic_translator at commit d27da85cff2dbf143fcaf365aece667d66c4298f",
        licence="terms of Flickr8k: research only",
        citation="M. Hodosh, P. Young and J. Hockenmaier, Framing Image Description as a Ranking Task, JAIR 2013",
    ),
    "flickr30k": Layout(
        folder="flickr30k",
        content="flickr30k_{train,val,test}_localized_narratives.jsonl (or ..._captions.jsonl, which have no voice), "
        "flickr30k-images/<image_id>.jpg and voice-recordings/<voice_recording>.ogg as the narratives name them",
        url="https://google.github.io/localized-narratives (narratives, recordings) and "
        "https://shannon.cs.illinois.edu/DenotationGraph (images, on request)",
        licence="narratives CC BY 4.0; images: research only",
        citation="J. Pont-Tuset et al., Connecting Vision and Language with Localized Narratives, ECCV 2020; P. Young "
        "et al., From Image Descriptions to Visual Denotations, TACL 2014",
    ),
    "humanml3d": Layout(
        folder="HumanML3D",
        content=_MOTION.format(width=263),
        url="https://github.com/EricGuo5513/HumanML3D",
        licence="terms of AMASS: research only",
        citation="C. Guo et al., Generating Diverse and Natural 3D Human Motions from Text, CVPR 2022",
    ),
    "kit_ml": Layout(
        folder="KIT-ML",
        content=_MOTION.format(width=251),
        url="https://github.com/EricGuo5513/HumanML3D",
        licence="terms of the KIT Motion-Language Dataset",
        citation="M. Plappert, C. Mandery and T. Asfour, The KIT Motion-Language Dataset, Big Data 2016",
    ),
}


def layout_advice(dataset: str) -> str:
    """What the data set's folder should hold, where to get it and how to check it: the second half of a message."""
    layout = LAYOUTS[dataset]
    return (
        f"Expected in {layout.folder}/: {layout.content}. Get it from {layout.url} ({layout.licence}) and check with "
        f"`python -m datamodules check {dataset}`."
    )


def find_folder(dataset: str, named: str | Path | None = None) -> Path:
    """The data set's folder below the data root.

    Args:
        dataset: a key of LAYOUTS.
        named: the data root, or None for CSD_DATA or `data/`.

    Raises:
        DataError: a root is named and has no such folder.
        DataMissing: no root is named, and `data/` has no such folder.
    """
    root = data_root(named)
    folder = root / LAYOUTS[dataset].folder
    if folder.is_dir():
        return folder
    hint = f" {root} looks like that folder itself: name the one above it." * (root.name == folder.name)
    error = DataError if root_is_named(named) else DataMissing
    raise error(f"{folder} is missing.{hint} {layout_advice(dataset)}")


def require(path: Path, dataset: str) -> Path:
    """The path, if there is a file or folder.

    Raises:
        DataError: there is none.
    """
    if not path.exists():
        raise DataError(f"{path} is missing. {layout_advice(dataset)}")
    return path


def broken(path: Path, what: str, dataset: str) -> DataError:
    """The error for a file that is not what it should be."""
    return DataError(f"{path}: {what}. {layout_advice(dataset)}")


def read_lines(path: Path, dataset: str) -> list[str]:
    """Lines of a UTF-8 text file.

    Raises:
        DataError: it is missing or not text.
    """
    try:
        return require(path, dataset).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise broken(path, f"cannot be read as text ({error})", dataset) from error
