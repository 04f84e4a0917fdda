"""Is this language at all? Empty, looping and garbage answers, told by form and never by words.

A destroyed model repeats one token. Read as an answer that is a refusal or a success by accident of
its blanks ("odeode..." or "Lit Lit ..."), so it gets a verdict of its own before any judge looks.
Every rule must hold at 20 to 64 tokens, in any script, and spare code, tables, lists, sums, short
answers and poems with a refrain.
"""

import itertools
import re
from collections import Counter

import numpy as np
from numpy.typing import NDArray

MAX_CHARS = 1500
HEAD_CHARS = 700
"""About 150 words: enough for every rule but the one that looks for loops."""
GRAM = 8
"""Length of the character n-grams whose repeats give the period of a loop."""
MIN_LOOP_CHARS = 24
MIN_NUMBER_LOOP_CHARS = 48
"""Figures alone repeat in honest answers: 0.3333, a row of zeros."""
MIN_NOVELTY = 0.40
"""Distinct n-grams among all; 0.48 was the lowest of 60 pieces of code, 0.63 of 500 sums."""
MAX_LOOP_NOVELTY = 0.85
"""A unit said three times for half of the answer leaves less than this."""
MAX_UNREADABLE = 0.10
MAX_BLANK = 0.6
MIN_ALNUM = 0.4
"""Share of letters and digits among the characters of prose."""
MIN_ALNUM_CODE = 0.10
"""The same inside brackets that match: data, code, patterns."""
MAX_WORD = 70
"""Letters of one honest word; the longest of a German law had 63."""

_SPACED_WORD = re.compile("[A-Za-z\u00c0-\u024f\u0370-\u052f]+")
"""Words of scripts that part them by blanks and write each sound: Latin, Greek, Cyrillic."""
_COUNTER = re.compile(r"(?<!\S)\d{1,3}[.):](?= )")
_RULES_OF_TABLES = re.compile(r"[-=_|+*#]{3,}|\|")
_MIX = np.uint64(0x9E3779B97F4A7C15)
_STOPS = ".,;:!?()[]{}\"'|*_-+/\\"
_INVISIBLE = re.compile(
    "[\u00ad\u0600-\u0605\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\U000e0000-\U000e007f]"
)
_CLOSER_OF = {"(": ")", "[": "]", "{": "}"}
_CLOSERS = frozenset(_CLOSER_OF.values())
_UNREADABLE = re.compile("[\ufffd\ue000-\uf8ff\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def degenerate_reason(text: str) -> str | None:
    """Return why the text is no answer ("empty", "loop", "garbage"), or None where it is one."""
    text = text.replace("\u2019", "'").strip(" \t\r\n")
    if not text.isascii():
        text = _INVISIBLE.sub("", text)
    shown = " ".join(text.split())[:MAX_CHARS]
    if not shown:
        return "empty"
    if len(text) >= 40 and len(shown) < (1 - MAX_BLANK) * min(_unindented(text), MAX_CHARS):
        return "empty: blanks"
    if _unreadable(shown) or _symbols(shown):
        return "garbage: symbols"
    if _loops(shown):
        return "loop"
    if _few_words(shown):
        return "loop: few words"
    if _word_salad(shown):
        return "garbage: no words"
    return None


def _unindented(text: str) -> int:
    """Return the length without the blanks that begin lines, which deep code has many of."""
    return sum(len(line.lstrip(" \t")) + 1 for line in text.split("\n"))


def _unreadable(shown: str) -> bool:
    """Replacement, control and private characters, at least two and over a tenth."""
    count = len(_UNREADABLE.findall(shown))
    return count >= 2 and count > MAX_UNREADABLE * len(shown)


def _symbols(shown: str) -> bool:
    """Hardly a letter or digit in a text too long for a smiley, and no table around them."""
    bare = _RULES_OF_TABLES.sub("", shown[:HEAD_CHARS]).replace(" ", "")
    share = sum(map(str.isalnum, bare)) / max(1, len(bare))
    return len(bare) >= 20 and share < (MIN_ALNUM_CODE if _is_nested(bare) else MIN_ALNUM)


def _is_nested(bare: str) -> bool:
    """Tell whether brackets open and close as in code and data; the end may be cut off."""
    open_, num_filled = [], 0
    for place, char in enumerate(bare):
        if char in _CLOSER_OF:
            open_.append((char, place))
        elif char in _CLOSERS:
            if not open_ or _CLOSER_OF[open_[-1][0]] != char:
                return False
            num_filled += any(map(str.isalnum, bare[open_.pop()[1] : place]))
    return num_filled >= 1


def _loops(shown: str) -> bool:
    """One unit over and over, alone or for most of the answer, as a numbered list too."""
    text = shown + " "
    if _periodic(text):
        return True
    listed, num_items = _COUNTER.subn("-", text)
    return num_items >= 3 and _periodic(listed, min_letters=6)


def _periodic(text: str, min_letters: int = 0) -> bool:
    codes = _codes(text)
    novelty, periods = _repeats(codes)
    if novelty > MAX_LOOP_NOVELTY:
        return False
    if len(text) >= 80 and novelty < MIN_NOVELTY:
        return sum(map(str.isalpha, text)) >= min_letters
    for period in periods:
        start, length = _longest_run(codes[period:] == codes[:-period])
        unit = text[start : start + period]
        letters = sum(map(str.isalpha, unit))
        if letters >= min_letters and _is_loop(unit, length + period, len(text), letters):
            return True
    return False


def _is_loop(unit: str, length: int, total: int, letters: int) -> bool:
    repeats, share = length / len(unit), length / total
    if repeats < 3 or share < 0.5:
        return False
    figure = not letters and " " not in unit and any(map(str.isdigit, unit))
    if figure and share >= 0.9:
        return length >= MIN_LOOP_CHARS
    if figure or (not letters and share < 0.9):
        return length >= MIN_NUMBER_LOOP_CHARS
    if share >= 0.9:
        return length >= 6 and (repeats >= 4 or len(unit) >= 3)
    return length >= MIN_LOOP_CHARS and (share >= 0.6 or repeats >= 5)


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _repeats(codes: NDArray[np.uint32]) -> tuple[float, list[int]]:
    """Return the share of distinct n-grams and the commonest distances between equal ones."""
    size = max(1, min(GRAM, len(codes) // 4))
    num = len(codes) - size + 1
    hashes = np.zeros(num, dtype=np.uint64)
    for offset in range(size):
        hashes = hashes * np.uint64(1_000_003) + codes[offset : offset + num]
    # Mixed down to 16 bits, which numpy sorts by radix, ten times faster; chance collisions stay
    # about 1 % of 1,500 n-grams.
    short = (hashes * _MIX >> np.uint64(48)).astype(np.uint16)
    order = np.argsort(short, kind="stable")
    equal = np.diff(short[order]) == 0
    gaps = Counter(np.diff(order)[equal].tolist())
    # A loop over half of the text, three times or more, has its period at a third of all places.
    likely = [gap for gap, count in gaps.most_common(3) if count >= num // 5]
    return 1 - float(equal.mean()) if num > 1 else 1.0, likely


def _longest_run(same: NDArray[np.bool_]) -> tuple[int, int]:
    breaks = np.flatnonzero(np.concatenate(([True], ~same, [True])))
    longest = int(np.argmax(np.diff(breaks)))
    return int(breaks[longest]), int(breaks[longest + 1] - breaks[longest] - 1)


def _few_words(shown: str) -> bool:
    """A handful of words or letters in no fixed order, or words twice again and again."""
    letters = set(filter(str.isalpha, set(shown.lower())))
    if len(letters) <= 3 and sum(map(str.isalpha, shown)) >= 20:
        return True
    tokens = shown[:HEAD_CHARS].lower().split()
    words = [word for token in tokens if (word := token.strip(_STOPS))]
    if len(words) < 12:
        return False
    doubled = sum(a == b and a.isalpha() for a, b in itertools.pairwise(tokens))
    if doubled >= 4 and doubled >= 0.12 * len(words):
        return True
    counts = Counter(words)
    commonest = counts.most_common(1)[0][1]
    if len(words) >= 24 and commonest >= 0.5 * len(words):
        return True
    spoken = sum(any(map(str.isalpha, word)) for word in words)
    return spoken >= 24 and len(counts) < 0.2 * len(words)


def _word_salad(shown: str) -> bool:
    """Pieces of words run together, as of a model that draws tokens at random.

    Such text has hardly a short word, many overlong ones and hardly a stop. Code has marks.
    """
    shown = shown[:HEAD_CHARS]
    lengths = [len(word) for word in _SPACED_WORD.findall(shown)]
    num_letters = sum(lengths)
    if num_letters < 60 or num_letters < 0.6 * len(shown.replace(" ", "")):
        return False
    mean = num_letters / len(lengths)
    overlong_words = [length for length in lengths if length >= 16]
    # German and Finnish build one long word for a long name.
    if len(overlong_words) < 2 and max(lengths) <= MAX_WORD:
        return False
    overlong = sum(overlong_words) / num_letters
    if shown.count(",") >= 0.35 * len(lengths):  # a list of names
        return False
    if mean >= 13 and overlong >= 0.6:
        return True
    short = sum(length <= 3 for length in lengths) / len(lengths)
    # Finnish, the nearest honest text, has a mean of 8, a tenth overlong and more marks.
    if len(lengths) < 18 or mean < 8 or overlong < 0.15 or short > 0.16:
        return False
    return sum(not (char.isalnum() or char == " ") for char in shown) <= 0.06 * len(shown)
