import pytest

from safetypin.artifacts import UserError
from safetypin.intervene import Training
from safetypin.intervene._training import OPTIMIZERS, SCHEDULES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0.0}, "epochs must be above 0, got 0.0"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, got nan"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"accumulation": 0}, "accumulation must be at least 1, got 0"),
        ({"max_length": 1}, "max_length must be at least 2, got 1"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
        ({"max_grad_norm": -1.0}, "max_grad_norm must be at least 0, got -1.0"),
        ({"warmup_ratio": 1.0}, "warmup_ratio must be in [0, 1), got 1.0"),
        ({"save_steps": 0}, "save_steps must be at least 1, got 0"),
        (
            {"precision": "fp8"},
            "unknown precision 'fp8'; nearest: fp16; choose one of auto, bf16, fp16, fp32",
        ),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(UserError) as caught:
        Training(**options)
    found = str(caught.value)
    assert found == message or (found.startswith("unknown") and "choose one of auto" in found)


def test_a_mistyped_optimizer_or_schedule_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown optimizer 'adamw_toch'; nearest: adamw_torch"):
        Training(optimizer="adamw_toch")
    with pytest.raises(UserError, match=r"unknown schedule 'linar'; nearest: linear"):
        Training(schedule="linar")


def test_optimizers_that_step_inside_the_backward_pass_are_not_offered():
    assert {"adamw_torch", "sgd", "adafactor", "adamw_bnb_8bit"} <= set(OPTIMIZERS)
    assert not [name for name in OPTIMIZERS if "lomo" in name or "layerwise" in name]
    assert "cosine" in SCHEDULES


def test_a_tracker_that_is_not_installed_is_refused():
    with pytest.raises(UserError, match="unknown report_to 'wandbox'"):
        Training(report_to=("wandbox",))


def test_settings_name_what_changes_the_result_and_the_rate_that_is_used():
    settings = Training(save_steps=5).settings(3e-5)
    assert settings["learning_rate"] == 3e-5
    assert settings["seed"] == 42
    assert settings == Training(gradient_checkpointing=True).settings(3e-5)
    assert settings != Training(seed=1).settings(3e-5)
