"""One model type's class defaults, read alone, are what the whole table has."""

from __future__ import annotations

import pytest

from hfmem.model.config import _class_entry, _class_table


@pytest.mark.parametrize("part", ["defaults", "aliases"])
def test_every_entry(part: str) -> None:
    table = _class_table()
    names = {*table["defaults"], *table["aliases"]}
    assert len(names) > 500
    for name in {*names, "", "llam", "text_config", 'a"b', "{", "defaults", "aliases"}:
        assert _class_entry(part, name) == table[part].get(name), name
