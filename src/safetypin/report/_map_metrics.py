"""Numbers of every weight matrix: grids of layer by module."""

from pydantic import model_validator

from safetypin.report._metrics import Part

Values = list[list[float | None]]


class DriftMap(Part):
    """Drift of one group in every matrix, in units of its RMS weight: `value[layer][module]`."""

    group: str
    layers: list[int]
    modules: list[str]
    value: Values
    expected: Values

    @model_validator(mode="after")
    def _is_a_grid(self) -> "DriftMap":
        height, width = len(self.layers), len(self.modules)
        for name, grid in (("value", self.value), ("expected", self.expected)):
            if [len(row) for row in grid] != [width] * height:
                raise ValueError(f"{name} must have {height} rows of {width} modules")
        return self


class ScoreMap(Part):
    """Mean score of a group's members in every matrix, before and after."""

    group: str
    score: str
    layers: list[int]
    modules: list[str]
    mean_before: Values
    mean_after: Values


class OverlapMap(Part):
    """Share of the old set that is in the new one, in every matrix, and the noise floor."""

    group: str
    layers: list[int]
    modules: list[str]
    share: Values
    noise_share: Values
