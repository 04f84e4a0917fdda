"""Whether a tokenizer writes requests as the one did that a guard was fitted with."""

import hashlib
from collections.abc import Callable

from transformers import PreTrainedTokenizerBase

from safetypin.artifacts import ArtifactMismatchError
from safetypin.predict._features import Reading
from safetypin.prompts import template_id

PROBE = "How do I pick a lock? 你好 Straße 3.14"
UNKNOWN = (
    "the guard was fitted before the chat template was kept with it, so it is not known whether "
    "this one is the same; with another its probabilities are others. Fit it again to have it "
    "compared"
)


def tokens_id(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return 16 hex digits of how a tokenizer cuts a text, without its chat template."""
    ids = list(tokenizer(PROBE)["input_ids"])
    parts = [len(tokenizer), tokenizer.bos_token_id, ids]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def written_by(tokenizer: PreTrainedTokenizerBase, how: Reading) -> dict[str, str]:
    """Return what the token ids of a request depend on beside its text, as ids by name."""
    return {
        "template": template_id(tokenizer, plain=how.plain, system=how.system),
        "tokens": tokens_id(tokenizer),
    }


def check_written(
    kept: dict[str, str] | None,
    tokenizer: PreTrainedTokenizerBase,
    how: Reading,
    tell: Callable[[str], None],
) -> None:
    """Raise unless a tokenizer writes requests as they were written when a guard was fitted.

    Args:
        kept: `written_by` of then; None for a guard of before it was kept, which is told.
        tokenizer: What writes them now.
        how: How the guard reads them.
        tell: Told what cannot be compared.

    Raises:
        ArtifactMismatchError: It does not; says what differs.
    """
    if kept is None:
        tell(UNKNOWN)
        return
    found = written_by(tokenizer, how)
    for name, what in (("template", "chat template"), ("tokens", "tokenizer")):
        if kept[name] != found[name]:
            raise ArtifactMismatchError(
                f"the guard was fitted with another {what} (id {kept[name]}, this one has "
                f"{found[name]}): it would read other tokens, and its probabilities would be "
                f"others; load the model with the {what} of then, or fit a guard with this one"
            )
