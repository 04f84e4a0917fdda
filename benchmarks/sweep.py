"""Claims: a sweep spends at least 90 % of its cells' time measuring, and switching sets is cheap.

Switching: two prepared sets of 0.5 % of the embedded model's weights are put on and taken off in
turns, beside one evaluation of the small scale of experiments/figure2.toml, in one run (limit: 5 %
of the evaluation). The share of time is read from the records of a finished sweep.

Run: python benchmarks/sweep.py [--run runs/figure2] [--turns N]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from safetypin.audit import read_prompts
from safetypin.experiment.sweep import read_sweep
from safetypin.experiment.sweep._measure import battery, measure
from safetypin.intervene import pruned
from safetypin.models import load_model
from safetypin.scores import random_scores
from safetypin.select import top_fraction
from safetypin.stages import Reporter

FILE = Path(__file__).parents[1] / "experiments" / "figure2.toml"
FRACTION = 0.005
SWITCH_LIMIT, MEASURE_LIMIT = 0.05, 0.9


def switching(turns: int) -> None:
    """Print the time of a switch over that of an evaluation."""
    sweep = read_sweep(FILE)
    model, tokenizer = load_model(sweep.config.model)
    wanted = battery(sweep, read_prompts(sweep.config))
    masks = [top_fraction(random_scores(model, seed=seed), FRACTION) for seed in (0, 1)]
    start = time.monotonic()
    for turn in range(turns):
        with pruned(model, masks[turn % 2]):
            pass
    switch = (time.monotonic() - start) / turns
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, pruned(model, masks[0]):
        measure(Path(folder), model, tokenizer, wanted, reporter=Reporter(quiet=True))
    evaluation = time.monotonic() - start
    print(
        f"switching {switch:.2f} s, one evaluation {evaluation:.1f} s: "
        f"{switch / evaluation:.3f} (limit {SWITCH_LIMIT})"
    )


def shares(folder: Path) -> None:
    """Print where the time of a finished sweep went."""
    found = json.loads((folder / "metrics.json").read_text())
    cells, times = found["run"]["cells"], {}
    for path in (*folder.glob("*/run.json"), *folder.glob("cells/*/run.json")):
        record = json.loads(path.read_text())
        times[path.parent.relative_to(folder)] = record["seconds"]
    whole = sum(times.values())
    measured = cells["measuring"] + cells["baseline"]
    print(
        f"{len(found['cells'])} cells: {cells['measuring'] / cells['seconds']:.3f} of their time "
        f"is measuring, {cells['changing'] / cells['seconds']:.3f} changing the model (limit "
        f"{MEASURE_LIMIT}); of all stages, {whole:,.0f} s with scoring and ranks, "
        f"{measured / whole:.3f}"
    )


def main() -> None:
    """Measure the switch, and read the shares where a sweep is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="folder of a finished sweep")
    parser.add_argument("--turns", type=int, default=6)
    options = parser.parse_args()
    switching(options.turns)
    if options.run is not None:
        shares(options.run)


if __name__ == "__main__":
    main()
