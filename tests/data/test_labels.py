"""Labels from files: what is accepted, and what is refused with the place named."""

import json

import pytest

from discli.data.labels import from_mapping, read_labels
from discli.runtime.errors import DiscliError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.csv", "a.png,cat\nb.png,dog\n"),
        ("l.csv", "filename,label\na.png,cat\n\nb.png, dog\n"),
        ("l.tsv", "a.png\tcat\nb.png\tdog\n"),
        ("l.csv", "\ufeffname,label\r\na.png,cat\r\nb.png,dog\r\n"),
        ("l.json", json.dumps({"a.png": "cat", "b.png": "dog"})),
        ("l.json", json.dumps([["a.png", "cat"], ["b.png", "dog"]])),
        ("l.json", json.dumps({"labels": [["a.png", 0], ["b.png", 1]], "classes": ["cat", "dog"]})),
    ],
)
def test_csv_and_json_say_the_same(name, text, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    labels, classes = from_mapping(["b.png", "a.png"], *_arguments(read_labels(tmp_path / name)))
    assert labels.tolist() == [1, 0]
    assert classes == ("cat", "dog")


def _arguments(parsed):
    mapping, classes = parsed
    return mapping, "labels", classes


def test_names_match_whole_below_the_outer_folder_or_by_file_name():
    names = ["set/x/1.png", "set/y/2.png", "set/y/3.png"]
    labels, _ = from_mapping(names, {"set/x/1.png": 0, "y/2.png": 1, "3.png": 2}, "labels")
    assert labels.tolist() == [0, 1, 2]


def test_whole_numbers_are_class_indices_as_they_stand():
    labels, classes = from_mapping(["a", "b"], {"a": "7", "b": 2}, "labels")
    assert labels.tolist() == [7, 2]
    assert len(classes) == 8


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", "a.png,cat\nb.png\n", "line 2: 1 columns"),
        ("l.csv", "a.png,cat\na.png,dog\nb.png,dog", "labels a.png both cat and dog"),
        ("l.json", '{"a.png": 1,\n "b.png" 2}', "line 2"),
        ("l.json", '"cat"', "neither"),
        ("l.csv", "a.png,cat\n", "no label for 1 of 2 images: b.png"),
        ("l.json", '{"labels": [["a.png", 0], ["b.png", 3]], "classes": ["cat"]}', "names only 1 classes"),
        ("l.json", '{"labels": [["a.png", "cat"], ["b.png", "cow"]], "classes": ["cat"]}', '"cow"'),
        ("l.csv", f'"a.png,{"x" * 200_000}', "larger than field limit"),  # a quotation mark that is not closed
        ("l.csv", "a.png,1\nb.png,20261130123456789012", "an image 20261130123456789012"),  # somebody's number
    ],
)
def test_mistakes_are_named_with_their_place(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(DiscliError, match=message) as refused:
        from_mapping(["a.png", "b.png"], *_arguments(read_labels(tmp_path / name)))
    assert refused.value.hint


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00bad"])
def test_a_file_that_cannot_be_read_is_named(content, tmp_path):
    path = tmp_path / "labels.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DiscliError, match=r"labels\.csv"):
        read_labels(path)
