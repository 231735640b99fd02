"""Lists, annotations and matrices of the data sets that do not fit, each named by file and entry, also by `check`."""

import json

import numpy as np
import pytest
from check_cases import MODULES, faulty, name_of, refused, text
from tiny_pedes import entries
from tiny_trees import flickr30k, tmr_annotations

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def changed(found: list[dict], number: int, **fields) -> str:
    """JSON of entries with some fields of one changed, or removed where the value is ..."""
    entry = found[number - 1] | fields
    found[number - 1] = {name: value for name, value in entry.items() if value is not ...}
    return json.dumps(found)


def pedes(number: int, **fields) -> str:
    return changed(entries(), number, **fields)


def karpathy(number: int, **fields) -> str:
    return json.dumps({"images": json.loads(changed(flickr30k(), number, **fields))})


def tmr(**fields) -> str:
    found = tmr_annotations()
    found["000002"] |= fields
    return json.dumps(found)


PEDES = [
    *((content, "cannot be read as JSON text") for content in ("", "[" * 100_000)),
    *((content, "no JSON list") for content in ("[]", '{"id": 1}')),
    ("[3]", "entry 1 is 3; expected file_path"),
    *((pedes(4, id=value), "entry 4 is {") for value in ("7", True, ..., 0)),
    *((pedes(6, captions=value), "entry 6 is {") for value in ("A man.", ["A man.", " "], ["A man.", 3])),
    *((pedes(7, split=value), "entry 7") for value in ("query", ..., ["val"])),
    (pedes(2, split="val"), "person 1 is train in Market/0001_0.jpg and validation in"),
    (pedes(3, file_path=entries()[0]["file_path"]), "entry 3 is of Market/0001_0.jpg, as entry 1 is"),
    (json.dumps([entry for entry in entries() if entry["split"] != "test"]), "no entry of the test part"),
]
KARPATHY = [
    *((content, "") for content in ("[]", '{"images": 3}')),
    (karpathy(2, filename="300.png"), "entry 2 is {"),
    *((karpathy(2, sentences=value), "entry 2 is {") for value in ([], [{"tokens": ["a"]}], [3], None)),
]
ANNOTATION = {"text": "walks", "start": 0.0, "end": 1.0}
TMR = [
    *((content, "") for content in ("[]", "{}")),
    *((tmr(**fields), "entry 000002 is ") for fields in ({"path": None}, {"duration": "long"}, {"annotations": 3})),
    *(
        (tmr(annotations=[{k: v for k, v in (ANNOTATION | fields).items() if v is not ...}]), "entry 000002 is ")
        for fields in ({"end": ...}, {"text": " "}, {"start": 1.0}, {"start": -1.0}, {"end": np.nan})
    ),
]
FLICKR8K = [
    ("a.jpg,caption\n", "image,caption"),
    ("image,caption\na.jpg,one,two\n", 'entry 2 is ["a.jpg"'),
    *((f"image,caption\n{line}\n", "entry 2 is") for line in ("a.jpg, ", "a.png,one")),
    ("image,caption\n" + "a.jpg,one\n" * 4, "has 4 captions of a.jpg; expected 5"),
    ("image,caption\n" + "a.jpg,one\n" * 5, "expected more than the 200"),
    (b"image,caption\n\xff\xfe\n", "cannot be read as text"),
    ('image,caption\na.jpg,"one\n', "is not CSV text"),
]
NARRATIVES = [
    *((content, "line 1 is") for content in ("{", "[]", '{"image_id": "1"}', '{"image_id": 1, "caption": "a"}')),
    ('{"image_id": "11", "caption": "again"}', "image 11 is in the train part too"),
]


@pytest.mark.parametrize(
    ("name", "file", "content", "fact"),
    [
        *(("cuhk_pedes", "reid_raw.json", *case) for case in PEDES),
        *(("flickr30k", "dataset_flickr30k.json", *case) for case in KARPATHY),
        *(("kit_ml, tmr", "annotations.json", *case) for case in TMR),
        *(("flickr8k_tri", "captions.txt", *case) for case in FLICKR8K),
        *(("flickr30k, narratives", "flickr30k_val_captions.jsonl", *case) for case in NARRATIVES),
    ],
)
def test_annotations_of_another_form_are_named_by_entry(tree, name, file, content, fact, capsys):
    folder = tree(name)
    text(content)(folder / file)
    said = refused(name, folder)
    assert str(folder / file) in said or "localized" in said
    assert fact in said
    assert fact in faulty(name_of(name), folder, capsys)


LABELS, LOW = "Groundtruth/TrainTestLabels/Labels_{}.txt", "Low_Level_Features/Train_Normalized_{}.dat"


@pytest.mark.parametrize(
    ("name", "file", "change", "fact"),
    [
        ("nus_wide", LABELS.format("concept0_Test"), lambda x: ["2\n", *x[1:]], "line 1 is '2'; expected 0"),
        ("nus_wide", LABELS.format("concept1_Train"), lambda x: x[1:], "has 59 lines; expected 60"),
        ("nus_wide", "ImageList/TestImagelist.txt", lambda x: x[:-1], "has 40 lines; expected 39"),
        ("nus_wide", "ImageList/TestImagelist.txt", lambda x: ["zoo\\Train_7.jpg\n", *x[1:]], "lists already"),
        ("nus_wide", "NUS_WID_Tags/Test_Tags1k.dat", lambda x: x[1:], "has 39 rows; expected 40"),
        ("nus_wide", LOW.format("EDH"), lambda x: [y.replace("0", "x") for y in x], "expected numbers"),
        ("nus_wide", LOW.format("WT"), lambda x: [x[0], *(y[10:] for y in x[1:])], "127 numbers; expected 128"),
        ("nus_wide", LOW.format("CH"), lambda x: [f"nan {y.split(' ', 1)[1]}" for y in x], "image is NaN"),
        ("nus_wide", "ConceptsList/Concepts81.txt", lambda x: [*x, x[0]], "has 13 concepts, 12 different ones"),
        ("nus_wide", "ConceptsList/Concepts81.txt", lambda x: [*x, "zebra\n"], "Labels_zebra_Train.txt is missing"),
        *(
            ("pku_xmedianet", "img_test_list.txt", lambda x, new=new: [x[0].replace(" 1", new), *x[1:]], "line 1 is")
            for new in (" 4", " 0", "")
        ),
        ("pku_xmedianet", "txt_train_list.txt", lambda x: [x[1], x[0], *x[2:]], "line 1 has the class 2"),
        ("pku_xmedianet", "txt_train_list.txt", lambda x: x[:-1], "has 11 lines, and img_train_list.txt has 12"),
        ("pku_xmedianet", "img_test_fea.txt", lambda x: [*x, x[0]], "has 7 rows; expected 6"),
        ("pku_xmedianet", "cate_fea.txt", lambda x: [], "class 1..0"),
        ("pku_xmedianet", "img_train_list.txt", lambda x: ["\n", " \n"], "has no line"),
        ("pku_xmedianet", "img_train_list.txt", lambda x: [x[0], "\n", *x[1:]], "line 2 is ''"),
        ("pku_xmedianet", "img_test_list.txt", lambda x: ["train/0.jpg 1\n", *x[1:]], "img_train_list.txt lists"),
        ("wikipedia", "trainset_txt_img_cat.list", lambda x: [y.replace("\t10", "\t11") for y in x], "line 2 is"),
        ("wikipedia", "testset_txt_img_cat.list", lambda x: [*x, "bb-1\ti9\t1\n"], "the text bb-1, which trainset"),
        ("wikipedia", "testset_txt_img_cat.list", lambda x: [*x, "ff-1\ti2\t1\n"], "the image i2, which trainset"),
        ("flickr8k", "Flickr_8k.testImages.txt", lambda x: [*x, "image4.jpg\n"], "lists the image image4.jpg, which"),
        ("flickr8k", "Flickr_8k.devImages.txt", lambda x: ["\n"], "lists nothing"),
        ("flickr8k", "Flickr8k.token.txt", lambda x: x[1:], "has 4 captions of image0.jpg; expected 5"),
        ("flickr8k", "Flickr8k.token.txt", lambda x: [x[0], *x], "line 2 is caption 0 of image0.jpg, which a line"),
        ("flickr8k", "Flickr8k.token.txt", lambda x: [x[0].replace("\t", " "), *x[1:]], "line 1 is 'image0.jpg#0 "),
        ("humanml3d", "test.txt", lambda x: [*x, "000001\n"], "lists 000001, which train.txt lists"),
        ("humanml3d", "test.txt", lambda x: [*x, "M000002\n"], "lists M000002, the mirror image of 000002"),
        ("kit_ml, tmr", "splits/test.txt", lambda x: [*x, "M000003\n"], "lists M000003, the mirror image of 000003"),
    ],
)
def test_lists_and_matrices_that_do_not_fit_are_named(tree, name, file, change, fact, capsys):
    folder = tree(name)
    path = folder / file
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    said = refused(name, folder)
    assert fact in said
    assert said.startswith(str(folder))
    assert fact in faulty(name_of(name), folder, capsys)


@pytest.mark.parametrize(("name", "folder"), [("wikipedia", "*.list"), ("pku_xmedianet", "*_list.txt")])
def test_a_byte_order_mark_and_blank_lines_at_the_end_of_a_list_count_for_nothing(tree, name, folder):
    copy = tree(name)
    expected = MODULES[name](copy.parent).digest
    for path in copy.glob(folder):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n \n")
    assert MODULES[name](copy.parent).digest == expected
