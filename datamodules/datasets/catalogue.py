"""What is known of each data set: its layout, how many items it has, where it is, its terms and whom to cite.

None of it is needed to read a data set: it is what `python -m datamodules list` and `check` and the messages about
missing files say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datamodules.files.feature_files import LAYOUTS as PAIR_LAYOUTS
from datamodules.files.sources import SOURCES


@dataclass(frozen=True)
class Form:
    """One form that a data set's folder may have, read by one data module.

    Args:
        variants: sets of paths below the folder, `*` as in a glob; a folder with all paths of one set has this form.
        items: split -> number of items in the authors' copy, where they are others than those of the data set; where
            none is stated, the classes are not either.
        lists: split, or "classes" -> file that has one of these items or classes per line, where what is read is other.
        widths: modality -> numbers of each item in the authors' files.
        repeats: items, group by group, that are known to be the same in several splits of the authors' copy.
    """

    variants: tuple[tuple[str, ...], ...]
    items: Mapping[str, int] | None = None
    lists: Mapping[str, str] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)
    repeats: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True)
class Facts:
    """One data set.

    Args:
        folder: its folder below the data root.
        content: what stands in the folder.
        url: where to get it.
        licence: its terms.
        citation: whom to cite.
        items: split -> number of items in the authors' copy; a split that is not named here is not stated.
        unit: what an item is, in the plural.
        classes: how many classes the items have; None where each item matches itself alone.
        forms: name -> form; the names are those of `datamodules.check`.
    """

    folder: str
    content: str
    url: str
    licence: str
    citation: str
    items: Mapping[str, int]
    unit: str
    classes: int | None
    forms: Mapping[str, Form]


def _form(*needs: str, **others: Any) -> Form:
    return Form((needs,), **others)


_LISTS = ("trainset_txt_img_cat.list", "testset_txt_img_cat.list")
# How many items they hold is for whoever extracted them to say.
_EXTRACTED = Form((("*.safetensors",),), items={})
_OR_EXTRACTED = ", or features: one .safetensors file of `extract`"
_PAIRS = Form((("*.npz",), *_EXTRACTED.variants, *(tuple(layout.files()) for layout in PAIR_LAYOUTS)), items={})
_OR_PAIRS = f"{_OR_EXTRACTED}, one .npz file, or the layout of ACMR, JFSE or DSCMR"
_NUS_LISTS = {
    "train": "ImageList/TrainImagelist.txt",
    "test": "ImageList/TestImagelist.txt",
    "classes": "ConceptsList/Concepts81.txt",
}
_NUS_WIDE = (
    *_NUS_LISTS.values(),
    *(f"Groundtruth/TrainTestLabels/Labels_*_{part}.txt" for part in ("Train", "Test")),
    *(f"NUS_WID_Tags/{part}_Tags1k.dat" for part in ("Train", "Test")),
)
_MOTION = (
    "new_joint_vecs/<id>.npy ({width} numbers per frame), texts/<id>.txt (lines caption#tokens#start#end), train.txt, "
    "val.txt and test.txt (one id per line), or TMR's annotations.json, splits/train.txt, splits/val.txt, "
    "splits/test.txt and guoh3dfeats/<path>.npy (263 numbers per frame)"
)
_PARTS = {"train": "train", "validation": "val", "test": "test"}


def _motion_forms(tmr: Mapping[str, int] | None = None) -> dict[str, Form]:
    official = {split: f"{word}.txt" for split, word in _PARTS.items()}
    splits = {split: f"splits/{file}" for split, file in official.items()}
    return {
        "new_joint_vecs": _form("new_joint_vecs", "texts", *official.values(), lists=official),
        "guoh3dfeats": _form("annotations.json", "guoh3dfeats", *splits.values(), items=tmr, lists=splits),
    }


CATALOGUE = {
    "wikipedia": Facts(
        folder="wikipedia",
        content="trainset_txt_img_cat.list and testset_txt_img_cat.list (text id, image id, class 1..10), and "
        "features, wiki_roph.mat or raw_features.mat, or images/<class>/<image id>.jpg and texts/<text id>.xml"
        + _OR_EXTRACTED,
        url="http://www.svcl.ucsd.edu/projects/crossmodal/",
        licence=SOURCES["wikipedia"].licence,
        citation=SOURCES["wikipedia"].citation,
        items={"train": 2173, "test": 693},
        unit="image-text pairs",
        classes=10,
        forms={
            "roph": _form("wiki_roph.mat", *_LISTS),
            "sift-lda": _form("raw_features.mat", *_LISTS),
            # The texts whose images have the same features in both published files of features.
            "raw": _form(
                "images/*/*.jpg",
                "texts/*.xml",
                *_LISTS,
                repeats=(
                    frozenset({"7499895013a95ec67d49768648e33279-4.2", "12471fa7b776e267a9e2817faf032e24-6"}),
                    frozenset({"21898ba7134f979e9eb31f17bee2a008-2", "21898ba7134f979e9eb31f17bee2a008-2.1"}),
                    frozenset({"90edde4ecc403ea91eaa3443872111dc-5", "8fa52fc9e76962339d5fe4f985ced328-3"}),
                ),
            ),
            "pairs": _EXTRACTED,
        },
    ),
    "pascal_sentences": Facts(
        folder="pascal_sentences",
        content="dataset/<class>/<image>.jpg and sentence/<class>/<image>.txt, or <image>txt (a sentence per line)"
        + _OR_PAIRS,
        url="http://vision.cs.uiuc.edu/pascal-sentences/ (with github.com/rupy/PascalSentenceDataset)",
        licence="none stated",
        citation="C. Rashtchian, P. Young, M. Hodosh and J. Hockenmaier, Collecting Image Annotations Using Amazon's "
        "Mechanical Turk, NAACL HLT Workshop on Creating Speech and Language Data 2010",
        items={"train": 800, "validation": 100, "test": 100},
        unit="images with five sentences each",
        classes=20,
        forms={"raw": _form("dataset/*/*.jpg", "sentence/*/*txt"), "pairs": _PAIRS},
    ),
    "nus_wide": Facts(
        folder="nus_wide",
        content="ConceptsList/Concepts81.txt, ImageList/{Train,Test}Imagelist.txt, "
        "Groundtruth/TrainTestLabels/Labels_<concept>_{Train,Test}.txt, NUS_WID_Tags/{Train,Test}_Tags1k.dat (1,000 "
        "numbers per line), and Low_Level_Features/{Train,Test}_Normalized_{CH,CORR,EDH,WT,CM55}.dat (64, 144, 73, 128 "
        "and 225) or Low_Level_Features/BoW_{Train,Test}_int.dat (500)" + _OR_PAIRS,
        url="https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html",
        licence="none stated for features, tags and labels",
        citation="T.-S. Chua et al., NUS-WIDE: A Real-World Web Image Database from National University of Singapore, "
        "CIVR 2009",
        items={"train": 161_789, "test": 107_859},
        unit="images with tags",
        classes=81,
        forms={
            "low-level": _form(
                *_NUS_WIDE,
                *(
                    f"Low_Level_Features/{part}_Normalized_{name}.dat"
                    for name in ("CH", "CORR", "EDH", "WT", "CM55")
                    for part in ("Train", "Test")
                ),
                lists=_NUS_LISTS,
                widths={"image": 634, "text": 1000},
            ),
            "bow": _form(
                *_NUS_WIDE,
                *(f"Low_Level_Features/BoW_{part}_int.dat" for part in ("Train", "Test")),
                lists=_NUS_LISTS,
                widths={"image": 500, "text": 1000},
            ),
            "pairs": _PAIRS,
        },
    ),
    "pku_xmedianet": Facts(
        folder="pku_xmedianet",
        content="img_{train,test}_fea.txt (4,096 numbers per line), txt_{train,test}_fea.txt (300), "
        "img_{train,test}_list.txt and txt_{train,test}_list.txt (file and class 1..200 per line) and cate_fea.txt "
        "(300 numbers per class)" + _OR_PAIRS,
        url="https://github.com/PKU-ICST-MIPL/DADN_TCSVT2019 (features) and "
        "https://www.icst.pku.edu.cn/mipl/lwsjjxz/dataset",
        licence="none stated",
        citation="Y. Peng, X. Huang and Y. Zhao, An Overview of Cross-media Retrieval, IEEE TCSVT 2018; features: "
        "J. Chi and Y. Peng, Zero-shot Cross-media Embedding Learning with Dual Adversarial Distribution Network, IEEE "
        "TCSVT 2019",
        items={"train": 32_000, "test": 8_000},
        unit="image-text pairs",
        classes=200,
        forms={
            "features": _form(
                "cate_fea.txt",
                *(
                    f"{m}_{part}_{what}.txt"
                    for m in ("img", "txt")
                    for part in ("train", "test")
                    for what in ("fea", "list")
                ),
                widths={"image": 4096, "text": 300},
            ),
            "pairs": _PAIRS,
        },
    ),
    "cuhk_pedes": Facts(
        folder="CUHK-PEDES",
        content="imgs/ (cam_a, cam_b, CUHK01, CUHK03, Market, test_query and train_query) and reid_raw.json, a list of "
        '{"split": train, val or test, "captions": [...], "file_path": a path below imgs/, "id": the person}, or '
        "caption_all.json, the same without a split",
        url="https://github.com/ShuangLI59/Person-Search-with-Natural-Language-Description (reid_raw.json; the rest "
        "from the authors, on request by e-mail)",
        licence="non-commercial research and education alone, not to be passed on",
        citation="S. Li et al., Person Search with Natural Language Description, CVPR 2017",
        items={"train": 34_054, "validation": 3_078, "test": 3_074},
        unit="photographs with descriptions",
        classes=13_003,
        forms={
            "raw": _form("reid_raw.json", "imgs"),
            # How many photographs its parts have is not stated, as they are parts by number; its persons are counted
            # when it is read.
            "caption_all": _form("caption_all.json", "imgs", items={}),
        },
    ),
    "flickr8k_tri": Facts(
        folder="flickr8k_tri",
        content="images/<name>.jpg, audio/<name>.wav (24 kHz mono, MP3 inside) and captions.txt (CSV with the header "
        "image,caption and five lines per image)" + _OR_EXTRACTED,
        url="https://github.com/quantumnaan/sic_translator at commit d27da85cff2dbf143fcaf365aece667d66c4298f",
        licence="terms of Flickr8k: research only",
        citation="M. Hodosh, P. Young and J. Hockenmaier, Framing Image Description as a Ranking Task, JAIR 2013",
        items={"train": 800, "test": 200},
        unit="images with five captions and synthetic speech",
        classes=None,
        forms={"raw": _form("captions.txt", "images", "audio"), "pairs": _EXTRACTED},
    ),
    "flickr30k": Facts(
        folder="flickr30k",
        content="flickr30k-images/<image>.jpg and dataset_flickr30k.json (Karpathy's split and the five captions), or "
        "flickr30k_{train,val,test}_localized_narratives.jsonl (or ..._captions.jsonl, which have no voice), "
        "flickr30k-images/<image_id>.jpg and voice-recordings/flickr30k_<split>/flickr30k_<split>_<image_id in 16 "
        "digits>_<annotator_id>.ogg" + _OR_EXTRACTED,
        url="https://shannon.cs.illinois.edu/DenotationGraph (images, on request), "
        "https://cs.stanford.edu/people/karpathy/deepimagesent (dataset_flickr30k.json) and "
        "https://google.github.io/localized-narratives (narratives, recordings)",
        licence="narratives CC BY 4.0; images: research only",
        citation="P. Young et al., From Image Descriptions to Visual Denotations, TACL 2014; A. Karpathy and L. "
        "Fei-Fei, Deep Visual-Semantic Alignments for Generating Image Descriptions, CVPR 2015; J. Pont-Tuset et al., "
        "Connecting Vision and Language with Localized Narratives, ECCV 2020",
        items={"train": 29_000, "validation": 1_014, "test": 1_000},
        unit="images with five captions, or with spoken narratives",
        classes=None,
        forms={
            "karpathy": _form("dataset_flickr30k.json", "flickr30k-images"),
            "raw": _form(
                *(f"flickr30k_{word}_localized_narratives.jsonl" for word in _PARTS.values()),
                "flickr30k-images",
                "voice-recordings",
                items={"test": 1_000},
            ),
            "transcripts": _form(
                *(f"flickr30k_{word}_captions.jsonl" for word in _PARTS.values()),
                "flickr30k-images",
                items={"test": 1_000},
            ),
            "pairs": _EXTRACTED,
        },
    ),
    "utd_mhad": Facts(
        folder="utd_mhad",
        content="class_names.txt (27 lines), and either utd_mhad_depth_skeleton_inertial_16f.npz or the folders "
        "Skeleton/a*_s*_t*_skeleton.mat (d_skel 20 x 3 x T), Inertial/a*_s*_t*_inertial.mat (d_iner T x 6) and "
        "Depth/a*_s*_t*_depth.mat (d_depth 240 x 320 x T)",
        url="https://personal.utdallas.edu/~kehtar/UTD-MHAD.html",
        licence="none stated",
        citation="C. Chen, R. Jafari and N. Kehtarnavaz, UTD-MHAD, ICIP 2015",
        items={"train": 431, "test": 430},
        unit="clips of 8 subjects as text, depth video, skeleton and inertial data",
        classes=27,
        forms={
            "16f": _form("class_names.txt", "utd_mhad_depth_skeleton_inertial_16f.npz"),
            "raw": _form("class_names.txt", "Skeleton", "Inertial", "Depth"),
        },
    ),
    "humanml3d": Facts(
        folder="HumanML3D",
        content=_MOTION.format(width=263),
        url="https://github.com/EricGuo5513/HumanML3D and, for TMR's form, https://github.com/Mathux/TMR",
        licence="terms of AMASS: research only",
        citation="C. Guo et al., Generating Diverse and Natural 3D Human Motions from Text, CVPR 2022; TMR's form: M. "
        "Petrovich, M. J. Black and G. Varol, TMR: Text-to-Motion Retrieval, ICCV 2023",
        items={"train": 23_384, "validation": 1_460, "test": 4_384},
        unit="motions with captions, mirrored ones counted",
        classes=None,
        forms=_motion_forms(),
    ),
    "kit_ml": Facts(
        folder="KIT-ML",
        content=_MOTION.format(width=251),
        url="https://github.com/EricGuo5513/HumanML3D and, for TMR's form, https://github.com/Mathux/TMR",
        licence="terms of the KIT Motion-Language Dataset",
        citation="M. Plappert, C. Mandery and T. Asfour, The KIT Motion-Language Dataset, Big Data 2016; TMR's form: "
        "M. Petrovich, M. J. Black and G. Varol, TMR: Text-to-Motion Retrieval, ICCV 2023",
        items={"train": 4_888, "validation": 300, "test": 830},
        unit="motions with captions, mirrored ones counted",
        classes=None,
        forms=_motion_forms(tmr={"train": 4_688, "validation": 292, "test": 786}),
    ),
}
