"""The walk through docs/adding-a-family.md, followed to the letter: its code becomes a family, its cases run."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from benchmarks import family_parity as parity

from zhixing.checkpoints.folder import load_folder
from zhixing.core.errors import BadInput
from zhixing.families import FAMILIES

DOCS = Path(__file__).parent.parent.parent / "docs"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", (DOCS / "adding-a-family.md").read_text(encoding="utf-8"), re.M | re.S)


def cases():
    """The page's last block, run with the names that stand in the file it is for."""
    names = {"Case": parity.Case, "SMALL": parity.SMALL, "scalings": parity.scalings}
    exec(BLOCKS[-1], names)
    return names["CASES"]


@pytest.fixture
def family(tmp_path, monkeypatch):
    file = tmp_path / "starcoder2.py"
    file.write_text("\n\n".join(BLOCKS[:-1]), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("starcoder2", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(FAMILIES, "starcoder2", module.STARCODER2)
    return module.STARCODER2


@pytest.mark.parametrize("name", cases())
def test_the_family_of_the_page_passes_its_parity_test(family, name, tmp_path):
    case = cases()[name]
    theirs = parity.published(case, tmp_path / "published")
    ours = load_folder(tmp_path / "published")
    assert ours.family is family
    results = {
        "opened here": parity.loaded(theirs, ours),
        "saved back": parity.saved(theirs, ours, tmp_path / "saved"),
        "with cache": parity.cached(theirs, ours, case),
        "unequal lengths": parity.padded(theirs, ours, case),
    }
    assert max(results.values()) < 1e-4, results
    values = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert family.config_from(values, "config.json") == ours.model.config


def test_it_refuses_what_the_page_says_that_it_refuses(family):
    values = {**parity.SMALL, "model_type": "starcoder2"}
    with pytest.raises(BadInput, match="'new_mechanism' = 1"):
        family.config_from({**values, "new_mechanism": 1}, "config.json")
    config = FAMILIES["llama"].config_from(values, "config.json")
    with pytest.raises(BadInput, match=r"model\.norm = 'layer'"):
        family.config_to(config)


def test_the_page_of_families_names_each_with_its_figures():
    page = (DOCS / "families.md").read_text(encoding="utf-8")
    for name, known in FAMILIES.items():
        row = re.search(rf"^\| `{name}` \| {re.escape(known.examples)} \|.*$", page, re.M)
        assert row, f"run: python benchmarks/families.py --write (nothing about {name})"
        figures = [float(cell) for cell in re.findall(r"\d\.\de[+-]\d\d", row[0])]
        assert len(figures) == 4
        assert max(figures) < 1e-4
