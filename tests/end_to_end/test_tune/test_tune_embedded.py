"""The embedded model, tuned for a few steps with its own safety-critical set frozen."""

import json

import pytest
import torch

from end_to_end.comparing import read_metrics
from safetypin.artifacts import load
from safetypin.models import load_model


@pytest.mark.slow
def test_the_embedded_model_is_tuned_with_its_own_set_frozen(command, tmp_path):
    rows = [
        {"prompt": f"What is {a} plus {a + 5}?", "response": f"{a} plus {a + 5} is {2 * a + 5}."}
        for a in range(11, 23)
    ]
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {"safety": 8, "utility": 8, "attack": 6, "harmless": 2, "borderline": 2, "text": 1}
    words = [word for kind, size in sizes.items() for word in (f"--num-{kind}", size)]
    words += ["--data", data, "--protect", "freeze", "--eval-fraction", "0.2"]
    words += ["--max-new-tokens", "10", "--max-steps", "2", "--batch-size", "2"]
    words += ["--accumulation", "1", "--gate", "asr<=0.5", "--gate", "task_perplexity_ratio<1"]
    out = tmp_path / "out"
    ended = command("tune", "smollm2-aligned", *words, "--out", out, "-q")
    assert ended.code == 0, ended
    found = read_metrics(out)
    assert found["before"]["refusal"]["value"] > 0.5
    assert found["training"]["num_steps"] == 2
    assert found["set"]["num_selected"] > 100_000
    before = dict(load_model("smollm2-aligned", device="cpu")[0].named_parameters())
    after = dict(load_model(str(out / "training" / "model"), device="cpu")[0].named_parameters())
    for name, members in load(out / "set").tensors.items():
        assert torch.equal(before[name][members], after[name][members]), name
        assert not torch.equal(before[name], after[name]), name
