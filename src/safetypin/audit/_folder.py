"""The run folder of an audit that may be there already."""

from pathlib import Path

from safetypin.artifacts import RunRecord, UserError, model_hash, read_json
from safetypin.audit._config import AuditConfig


def check_folder(out: Path, config: AuditConfig, model_id: str) -> None:
    """Refuse a folder of another model's audit; take away the report of other settings.

    A run that is killed must not leave the report of an earlier one beside its own stages.

    Raises:
        UserError: The baseline in the folder is of another model.
    """
    if (out / "baseline" / "run.json").exists():
        theirs = RunRecord.read(out / "baseline").inputs["model_id"]
        if model_hash(theirs) != model_hash(model_id):
            raise UserError(
                f"{out} holds an audit of {theirs}, the model is {model_id}; choose another --out, "
                "or delete the folder"
            )
    found = out / "metrics.json"
    if found.exists() and read_json(found).get("settings") != config.model_dump(mode="json"):
        for name in ("metrics.json", "examples.json", "report.html"):
            (out / name).unlink(missing_ok=True)
