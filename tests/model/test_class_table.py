"""One model type's class defaults, read alone, are what the whole table has."""

from __future__ import annotations

import json

from hfmem.model.config import _class_entry, _class_text


def test_every_entry() -> None:
    table = json.loads(_class_text())
    assert len(table["classes"]) > 500
    for name, entry in table["classes"].items():
        assert _class_entry(name) == entry, name
    for name in ("", "llam", "text_config", 'a"b', "{", "classes", "defaults", '\n"llama"', "\ud800"):
        assert _class_entry(name) == {}, name
