"""The published schema of a config is the code's, and holds for the published configs."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from benchmarks.schemas import FOLDER, SCHEMAS
from tests.training.test_configs import PATHS
from training.config import load_config
from training.defenses import resolved


@pytest.mark.parametrize("name", SCHEMAS)
def test_published_schemas_are_those_of_the_code(name: str) -> None:
    published = json.loads((FOLDER / f"{name}.json").read_text())
    Draft202012Validator.check_schema(published)
    assert published == SCHEMAS[name](), "python -m benchmarks.schemas writes it anew"


def test_every_config_holds_to_the_schema_and_a_wrong_one_does_not() -> None:
    schema = Draft202012Validator(SCHEMAS["config"]())
    for path in PATHS:
        table = resolved(load_config(path)).as_dict()
        schema.validate(table)
        assert not schema.is_valid(table | {"seed": -1})
        assert not schema.is_valid(table | {"defense": table["defense"] | {"strength": 1}})
