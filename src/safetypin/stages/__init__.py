"""One function a stage: inputs, compute, save, record. Any stage can be fed by another's files."""

from safetypin.stages._attacks import (
    AttackSuite,
    answers_file,
    attack_model,
    describe_attacks,
)
from safetypin.stages._calibrate import MIN_CALIBRATION, calibrate, check_texts, read_calibration
from safetypin.stages._contrast import contrast_models
from safetypin.stages._contrast_config import ContrastConfig, make_contrast_config
from safetypin.stages._describe import (
    describe_evaluation,
    describe_judge,
    describe_model,
    describe_prompts,
    describe_run,
    example_rows,
)
from safetypin.stages._evaluate import Suite, evaluate_model, read_responses, second_judge
from safetypin.stages._evaluate_files import evaluate_files
from safetypin.stages._evaluate_parts import Extras
from safetypin.stages._gates import GAUGES
from safetypin.stages._gcg import SUFFIXES_FILE, gcg_files
from safetypin.stages._guard import fit_guard
from safetypin.stages._guard_config import GuardConfig, make_guard_config
from safetypin.stages._guard_use import (
    evaluate_guard,
    labelled_sets,
    open_guard,
    score_texts,
)
from safetypin.stages._identify import (
    CALIBRATION_STAGES,
    SCORE_STAGES,
    discard_scores,
    identify,
)
from safetypin.stages._idle import (
    idle_audit_options,
    idle_contrast_options,
    idle_score_options,
    idle_select_options,
    idle_track_options,
    idle_tune_options,
    refuse_idle,
)
from safetypin.stages._import import import_files
from safetypin.stages._overlaps import overlap_of_tops, where
from safetypin.stages._pair import Where
from safetypin.stages._patch import patch_models
from safetypin.stages._patch_config import PatchConfig, make_patch_config
from safetypin.stages._progress import EVENTS_FILE, Reporter
from safetypin.stages._rates import (
    complied_flags,
    finite,
    rates,
    read_perplexity,
    verdict_flags,
    why_destroyed,
)
from safetypin.stages._run import (
    Output,
    discard,
    environment,
    held,
    is_unfinished,
    now,
    run_stage,
)
from safetypin.stages._score import (
    HALF_FILES,
    SCORES_FILE,
    UNITS_PER_EXAMPLE,
    Scoring,
    check_method,
    score,
    score_halves,
)
from safetypin.stages._score_files import score_files
from safetypin.stages._scored import calibrated
from safetypin.stages._series import Series
from safetypin.stages._set_files import prune_files, select_files
from safetypin.stages._sets import cut_sets, load_mask, read_set, set_name
from safetypin.stages._settings import (
    check_choice,
    check_share,
    join_settings,
    nearest,
    one_or_many,
)
from safetypin.stages._share import share_stages
from safetypin.stages._subject import Subject, model_inputs
from safetypin.stages._track import track
from safetypin.stages._track_config import TRACK_PRESETS, TrackConfig, make_track_config
from safetypin.stages._track_findings import MIN_RATIO, SHARP_DROP
from safetypin.stages._track_tables import write_table
from safetypin.stages._tune import tune
from safetypin.stages._tune_config import (
    IMPORTANCES,
    ROTATIONS,
    TUNE_PRESETS,
    TuneConfig,
    make_tune_config,
)
from safetypin.stages._warp_mask import discard_coefficients
from safetypin.stages._warp_phases import warp_basis, warp_importance, warp_tune
from safetypin.stages._zero_shot import (
    ProblemSuite,
    ZeroShotSuite,
    describe_problems,
    describe_zero_shot,
    solve_problems,
    zero_shot_model,
)

__all__ = [
    "CALIBRATION_STAGES",
    "EVENTS_FILE",
    "GAUGES",
    "HALF_FILES",
    "IMPORTANCES",
    "MIN_CALIBRATION",
    "MIN_RATIO",
    "ROTATIONS",
    "SCORES_FILE",
    "SCORE_STAGES",
    "SHARP_DROP",
    "SUFFIXES_FILE",
    "TRACK_PRESETS",
    "TUNE_PRESETS",
    "UNITS_PER_EXAMPLE",
    "AttackSuite",
    "ContrastConfig",
    "Extras",
    "GuardConfig",
    "Output",
    "PatchConfig",
    "ProblemSuite",
    "Reporter",
    "Scoring",
    "Series",
    "Subject",
    "Suite",
    "TrackConfig",
    "TuneConfig",
    "Where",
    "ZeroShotSuite",
    "answers_file",
    "attack_model",
    "calibrate",
    "calibrated",
    "check_choice",
    "check_method",
    "check_share",
    "check_texts",
    "complied_flags",
    "contrast_models",
    "cut_sets",
    "describe_attacks",
    "describe_evaluation",
    "describe_judge",
    "describe_model",
    "describe_problems",
    "describe_prompts",
    "describe_run",
    "describe_zero_shot",
    "discard",
    "discard_coefficients",
    "discard_scores",
    "environment",
    "evaluate_files",
    "evaluate_guard",
    "evaluate_model",
    "example_rows",
    "finite",
    "fit_guard",
    "gcg_files",
    "held",
    "identify",
    "idle_audit_options",
    "idle_contrast_options",
    "idle_score_options",
    "idle_select_options",
    "idle_track_options",
    "idle_tune_options",
    "import_files",
    "is_unfinished",
    "join_settings",
    "labelled_sets",
    "load_mask",
    "make_contrast_config",
    "make_guard_config",
    "make_patch_config",
    "make_track_config",
    "make_tune_config",
    "model_inputs",
    "nearest",
    "now",
    "one_or_many",
    "open_guard",
    "overlap_of_tops",
    "patch_models",
    "prune_files",
    "rates",
    "read_calibration",
    "read_perplexity",
    "read_responses",
    "read_set",
    "refuse_idle",
    "run_stage",
    "score",
    "score_files",
    "score_halves",
    "score_texts",
    "second_judge",
    "select_files",
    "set_name",
    "share_stages",
    "solve_problems",
    "track",
    "tune",
    "verdict_flags",
    "warp_basis",
    "warp_importance",
    "warp_tune",
    "where",
    "why_destroyed",
    "write_table",
    "zero_shot_model",
]
