"""The metadata of an exported file is read back, or refused with an error on one line."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtdetr.errors import ConfigError, WeightsError
from rtdetr.runtimes.metadata import ExportMetadata
from tests.runtimes.graphs import make_metadata


def test_round_trip():
    metadata = make_metadata(thresholds=(0.1, 0.2, 0.3), names=("Schraube", "écrou", "座金"), license="Apache-2.0")
    assert ExportMetadata.from_json(metadata.to_json(), source="file") == metadata
    assert metadata.categories.ids == [4, 9, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"category_ids": (1, 2)}, "3 names but 2 category_ids"),
        ({"thresholds": (0.5,)}, "3 names but 1 thresholds"),
        ({"category_ids": (1, 2, 1)}, "must differ"),
        ({"postprocess": "box"}, "postprocess"),
        ({"names": (), "category_ids": ()}, "names"),
    ],
)
def test_contradictions(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_metadata(**changes)


def test_a_newer_format_says_so():
    with pytest.raises(WeightsError, match=r"model\.onnx: its format 2 is newer than 1; upgrade rtdetr"):
        ExportMetadata.from_json('{"format_version": 2, "anything": 1}', source="model.onnx")


def test_numbers_as_text_are_refused_by_name():
    text = make_metadata().to_json().replace('"num_queries": 6', '"num_queries": "6"')
    said = r'm\.onnx: .* is damaged: ExportMetadata\.num_queries: expected the number 6, got the text "6"\. Export'
    with pytest.raises(WeightsError, match=said):
        ExportMetadata.from_json(text, source="m.onnx")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("self"), inner),
)


@settings(max_examples=15, deadline=None)
@given(text=st.text() | anything.map(json.dumps))
def test_random_text_is_refused(text):
    with pytest.raises(WeightsError, match="file: its"):
        ExportMetadata.from_json(text, source="file")


@settings(max_examples=15, deadline=None)
@given(field=st.sampled_from(sorted(ExportMetadata.model_fields)), value=anything)
def test_random_values_are_read_or_refused(field, value):
    text = json.dumps(json.loads(make_metadata().to_json()) | {field: value})
    with contextlib.suppress(WeightsError):
        assert ExportMetadata.from_json(text, source="file").names
