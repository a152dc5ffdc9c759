"""Results that read like objects."""

import copy
import json
import pickle

import pytest

from polyrank.client import objects


def test_keys_are_attributes_at_every_depth() -> None:
    out = objects.load('{"images": [{"url": "u", "size": {"width": 3}}], "items": 5}')
    assert out.images[0].size.width == out["images"][0]["size"]["width"] == 3
    assert out["items"] == 5 and callable(out.items)
    assert out.get("nothing") is None
    with pytest.raises(AttributeError, match="no 'image' in this object; it has images, items"):
        _ = out.image
    with pytest.raises(AttributeError):
        out.image = 1


def test_it_is_a_dict_to_everything_else() -> None:
    out = objects.load('{"a": {"b": [1]}}')
    assert out == {"a": {"b": [1]}} and isinstance(out, dict)
    assert json.loads(json.dumps(out)) == out
    for same in (copy.deepcopy(out), pickle.loads(pickle.dumps(out))):
        assert same.a.b == [1]
