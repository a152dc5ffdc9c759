"""The files of a result."""

import pytest

from polyrank.cli import outputs
from polyrank.cli.outputs import Output

PICTURE = "data:image/png;base64,AAAA"


def test_files_are_found_wherever_they_stand() -> None:
    result = {
        "image": {"url": "http://h/files/a.png", "content_type": "image/png", "file_name": "b.png"},
        "frames": [{"url": PICTURE}, PICTURE],
        "mask_url": "https://h/mask",
        "homepage": "https://h/",
        "url": "not one",
        "text": "data: none",
    }
    assert [(each.place, each.url) for each in outputs.find(result)] == [
        ("image", "http://h/files/a.png"),
        ("frames.0", PICTURE),
        ("frames.1", PICTURE),
        ("mask_url", "https://h/mask"),
    ]
    assert [each.is_picture for each in outputs.find(result)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("output", "name"),
    [
        (Output("image", "http://h/x", file_name="b.png"), "b.png"),
        (Output("image", "http://h/dir/c%20d.jpg?sig=1"), "c d.jpg"),
        (Output("images.0", PICTURE), "images-0.png"),
        (Output("image", "http://h/plain"), "plain.png"),
        (Output("image", "http://h/x", file_name="../../etc/passwd.txt"), "passwd.txt"),
        (Output("image", "http://h/x", file_name="..\\..\\evil.png"), "evil.png"),
        (Output("image", "http://h/..%2f..%2f.bashrc"), "bashrc.png"),
    ],
)
def test_a_name_never_leads_out_of_the_folder(output: Output, name: str) -> None:
    assert output.name("image/png") == name


def test_people_are_spared_the_data() -> None:
    long = "data:image/png;base64," + "A" * 1000
    shown = outputs.shortened({"a": [long], "b": PICTURE})
    assert len(shown["a"][0]) < 100 and "1022 characters" in shown["a"][0]
    assert shown["b"] == PICTURE
