"""Which versions a run is credited to, where some of its stages were made before."""

import pytest

from safetypin.artifacts import RunRecord
from safetypin.stages import _describe, describe_run

TODAY = {
    "safetypin": "0.2.0",
    "commit": "new",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "python": "3.11.9",
    "platform": "Linux",
    "num_threads": 1,
    "command": "safetypin audit",
}
RUN = {"started": "2026-01-01T00:00:00+00:00", "seconds": 1.0}


@pytest.fixture
def described(monkeypatch):
    """Describe a run of stages, each given by its environment and whether it was kept."""
    monkeypatch.setattr(_describe, "environment", lambda: TODAY)

    def run(**stages):
        records = {
            name: RunRecord(
                stage=name, inputs={}, result={}, files={}, seconds=1.0, environment=environment
            )
            for name, (environment, _) in stages.items()
        }
        return describe_run(records, {name: kept for name, (_, kept) in stages.items()}, RUN)

    return run


def test_kept_stages_name_the_versions_that_made_them(described):
    old, older = TODAY | {"commit": "old"}, TODAY | {"commit": "old", "torch": "2.12.0"}
    found = described(
        baseline=(old, True), scores=(older, True), sets=(old, True), cells=(TODAY, False)
    )
    assert found["commit"] == "new"
    assert found["other_versions"] == [
        {"stages": ["baseline", "sets"], "versions": {"commit": "old"}},
        {"stages": ["scores"], "versions": {"commit": "old", "torch": "2.12.0"}},
    ]


def test_stages_of_the_same_versions_and_new_ones_name_none(described):
    elsewhere = TODAY | {"python": "3.12.1", "command": "safetypin audit --quiet"}
    found = described(baseline=(elsewhere, True), cells=(TODAY | {"commit": "x"}, False))
    assert found["other_versions"] == []


def test_what_a_record_does_not_say_is_not_called_another_version(described):
    found = described(baseline=({}, True), sets=({"commit": None}, True))
    assert found["other_versions"] == [{"stages": ["sets"], "versions": {"commit": None}}]
