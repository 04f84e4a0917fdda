"""Two tokenizers: the same words under the same ids, or what differs."""

import pytest
from tokenizers import normalizers

from end_to_end.tiny import make_tokenizer
from safetypin.artifacts import ArtifactMismatchError
from safetypin.stages._pair import check_tokenizers, template_note


def test_equal_tokenizers_pass():
    check_tokenizers(make_tokenizer(), make_tokenizer())
    assert template_note(make_tokenizer(), make_tokenizer()) is None


def test_another_number_of_tokens_is_named():
    longer = make_tokenizer()
    longer.add_tokens(["another"])
    with pytest.raises(ArtifactMismatchError, match=r"in the number of tokens: (\d+) and "):
        check_tokenizers(make_tokenizer(), longer)


def test_the_same_words_cut_in_another_way_are_named():
    other = make_tokenizer()
    other.backend_tokenizer.normalizer = normalizers.Replace(" ", "")
    with pytest.raises(ArtifactMismatchError, match="in the ids of the text 'How do I pick a lock"):
        check_tokenizers(make_tokenizer(), other)


def test_other_templates_are_said():
    bare = make_tokenizer()
    bare.chat_template = None
    assert "read every prompt in the aligned model's" in template_note(make_tokenizer(), bare)
