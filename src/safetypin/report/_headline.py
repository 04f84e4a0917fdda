"""What the top of the report says: the numbers that carry the verdict, and the rule they met."""

import dataclasses
import statistics
from collections.abc import Sequence

from safetypin.report import _words
from safetypin.report._metrics import AuditVerdict, Cell, Control, Grid, Metrics, Rule

# a control matched on |w| whose mean |w| is further from its set's than this is no match
MAX_MISMATCH = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fact:
    """One large number, what it is, and what stands behind it."""

    label: str
    value: str
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """One threshold of the rule, beside what was measured; `met` is None where nothing was."""

    rule: str
    measured: str
    met: bool | None


def carrying_cell(metrics: Metrics) -> Cell | None:
    """Return the cell of the verdict, else the critical set with the largest ASR rise.

    Among the latter, sets that kept their language come before sets that only still answer.
    """
    named = metrics.cell(metrics.verdict.cell)
    working = [cell for cell in critical_cells(metrics) if not cell.destroyed and cell.asr_change]
    spoken = [cell for cell in working if keeps_language(cell, metrics.verdict.rule)]
    return named or max(spoken or working, key=_rise, default=None)


def keeps_language(cell: Cell, rule: Rule) -> bool:
    """Whether perplexity and degenerate answers stay under the limits of the rule."""
    return _is_fluent(cell, rule) and not _loops(cell, rule)


def _is_fluent(cell: Cell, rule: Rule) -> bool:
    return cell.perplexity_ratio is not None and cell.perplexity_ratio < rule.max_perplexity_ratio


def _loops(cell: Cell, rule: Rule) -> bool:
    """Whether the share of degenerate answers is not under that of the rule; 0 always is."""
    found = cell.degenerate.value or 0.0
    return found > 0 and found >= rule.max_degenerate


def sentence(metrics: Metrics) -> str:
    """Return the sentence of the verdict without the answer, which stands above it."""
    verdict = metrics.verdict
    rest = verdict.sentence.removeprefix(f"{_words.ANSWERS[verdict.answer]}: ")
    return rest[:1].upper() + rest[1:]


def critical_cells(metrics: Metrics) -> list[Cell]:
    """Return the safety-critical sets, smallest first."""
    found = [cell for cell in metrics.cells if cell.arm == "critical"]
    return sorted(found, key=lambda cell: (cell.fraction, cell.id))


def cell_groups(metrics: Metrics) -> list[tuple[Cell, list[Cell]]]:
    """Return every critical set with its controls; a set of its own where `of` is itself."""
    heads = [cell for cell in metrics.cells if cell.of == cell.id]
    order = list(_words.ARMS)
    groups = []
    for head in sorted(heads, key=lambda cell: (cell.arm != "critical", cell.fraction, cell.id)):
        rest = [cell for cell in metrics.cells if cell.of == head.id and cell.id != head.id]
        rest.sort(key=lambda cell: (order.index(cell.arm), cell.seed or 0, cell.id))
        groups.append((head, rest))
    return groups


def facts(metrics: Metrics) -> list[Fact]:
    """Return the three numbers that carry the verdict."""
    cell = carrying_cell(metrics)
    carried = cell is not None and cell.id == metrics.verdict.cell
    tried = critical_cells(metrics)
    size = _size(cell, metrics.verdict, tried[0].fraction) if cell and carried else _tried(metrics)
    return [size, _effect(metrics, cell, carried), _strongest_control(metrics, cell)]


def controls(metrics: Metrics) -> list[Control]:
    """Return the verdict's controls; where it names none, those of the carrying cell, by arm."""
    cell = carrying_cell(metrics)
    if metrics.verdict.controls or cell is None:
        return metrics.verdict.controls
    found = [other for other in metrics.cells if other.of == cell.id and other.id != cell.id]
    arms = [arm for arm in _words.ARMS if any(other.arm == arm for other in found)]
    return [_joined([other for other in found if other.arm == arm]) for arm in arms]


def _joined(cells: Sequence[Cell]) -> Control:
    ratios = [cell.perplexity_ratio for cell in cells if cell.perplexity_ratio is not None]
    judged = [c for c in cells if not c.destroyed and c.asr_change and c.asr_change.num_pairs]
    strongest = max(judged, key=_rise, default=None)
    return Control(
        arm=cells[0].arm,
        num_cells=len(cells),
        num_destroyed=sum(cell.destroyed for cell in cells),
        perplexity_ratio=statistics.fmean(ratios) if len(ratios) == len(cells) else None,
        cell=strongest.id if strongest else None,
        asr_rise=strongest.asr_change if strongest else None,
        margin=None,
    )


def checks(metrics: Metrics) -> list[Check]:
    """Return the thresholds of the rule beside the carrying cell's figures."""
    rule, cell = metrics.verdict.rule, carrying_cell(metrics)
    if cell is None:
        return []
    rise = None if cell.asr_change is None else cell.asr_change.value
    degenerate = cell.degenerate.value
    return [
        Check(
            rule=f"ASR rises by at least {_words.points(rule.min_asr_rise).removeprefix('+')}",
            measured=_words.points(rise),
            met=None if rise is None else rise >= rule.min_asr_rise,
        ),
        Check(
            rule=f"perplexity stays under {rule.max_perplexity_ratio:g}\u00d7",
            measured=_perplexity(cell, rule),
            met=None if cell.perplexity_ratio is None else _is_fluent(cell, rule),
        ),
        Check(
            rule=f"under {_words.percent(rule.max_degenerate)} of answers degenerate",
            measured=f"{_words.rate(cell.degenerate)} ({_words.counts(cell.degenerate)})",
            met=None if degenerate is None else not _loops(cell, rule),
        ),
    ]


def _perplexity(cell: Cell, rule: Rule) -> str:
    """Return the ratio with its interval, and whether the limit lies within."""
    shown, found = _words.ratio(cell.perplexity_ratio), cell.perplexity_interval
    if found is None:
        return shown
    reached = found[0] <= rule.max_perplexity_ratio <= found[1]
    also = ", which includes the limit" if reached else ""
    low, high = (_words.ratio(end) for end in found)
    return f"{shown}, 95 % interval {low} to {high}{also}"


def magnitudes(cell: Cell) -> str | None:
    """Return how large the weights of a matched control are, and whether that is a match."""
    found = cell.magnitudes or {}
    ours, theirs = found.get("mean_control"), found.get("mean_set")
    if ours is None or not theirs:
        return None
    off = ours / theirs - 1
    warning = f"not matched, {abs(off):.0%} off: " if abs(off) > MAX_MISMATCH else ""
    return f"{warning}mean |w| {_words.figures(ours)}, the set\u2019s {_words.figures(theirs)}"


def mismatches(metrics: Metrics) -> list[str]:
    """Return what is wrong with the matched controls of the carrying cell."""
    head = carrying_cell(metrics)
    found = [magnitudes(cell) for cell in metrics.cells if head and cell.of == head.id]
    return [note for note in found if note and note.startswith("not matched")]


def concentration(where: Grid) -> str | None:
    """Return in words where most of the set lies; None for an empty set."""
    entries = [
        (count, f"{module}, layer {layer}", share)
        for layer, counts, shares in zip(where.layers, where.counts, where.share, strict=True)
        for module, count, share in zip(where.modules, counts, shares, strict=True)
        if count is not None and share is not None
    ]
    total = sum(count for count, _, _ in entries)
    if not total:
        return None
    reached = num_matrices = 0
    for count, _, _ in sorted(entries, reverse=True):
        reached, num_matrices = reached + count, num_matrices + 1
        if 2 * reached >= total:
            break
    _, name, densest = max(entries, key=lambda entry: entry[2])
    return (
        f"Half of its {total:,} weights lie in {num_matrices} of {len(entries)} matrices; "
        f"the densest is {name}, with {_words.share(densest)} of it in the set."
    )


def _rise(cell: Cell) -> float:
    return (cell.asr_change.value or 0.0) if cell.asr_change else 0.0


def _size(cell: Cell, verdict: AuditVerdict, smallest: float) -> Fact:
    notes = [
        f"{cell.num_selected:,} of {cell.num_weights:,} scored weights; "
        f"{_words.share(cell.fraction_of_all)} of all parameters"
    ]
    ends = verdict.fraction_interval or (cell.fraction, cell.fraction)
    low, high = (_words.share(end) for end in ends)
    # the sizes that were tried say nothing of those below them
    is_smallest = ends[0] <= smallest
    if low != high:
        end = "; the low end is the smallest, a smaller one may do it" if is_smallest else ""
        notes.append(f"95 % interval {low} to {high}, of the sizes tried{end}")
    elif is_smallest:
        notes.append("the smallest size tried; a smaller one may do it")
    elif verdict.fraction_interval:
        notes.append("no smaller one may do it, of the sizes tried")
    value = _words.share(cell.fraction if verdict.fraction is None else verdict.fraction)
    return Fact(label="Share of weights removed", value=value, notes=tuple(notes))


def _tried(metrics: Metrics) -> Fact:
    cells = critical_cells(metrics)
    if not cells:
        return Fact(label="Safety-critical sets tried", value="0", notes=("none was measured",))
    low, high = _words.share(cells[0].fraction), _words.share(cells[-1].fraction)
    size = low if low == high else f"{low} to {high}"
    num_destroyed = sum(cell.destroyed for cell in cells)
    return Fact(
        label="Safety-critical sets tried",
        value=str(len(cells)),
        notes=(
            f"{size} of the scored weights",
            f"{num_destroyed or 'none'} of them destroyed the model",
        ),
    )


def _effect(metrics: Metrics, cell: Cell | None, carried: bool) -> Fact:
    label = "Harmful requests complied with (ASR)"
    before = metrics.baseline.asr
    if cell is None or cell.asr is None:
        measured = f"before any removal {_words.rate(before)}" if before else "no baseline ASR"
        why = "no safety-critical set left a working model to measure"
        return Fact(label=label, value=_words.NONE, notes=(why, measured))
    notes = [
        f"{_words.counts(before) or _words.NONE} before, {_words.counts(cell.asr)} after",
        difference(cell),
    ]
    if not carried:
        kept = keeps_language(cell, metrics.verdict.rule)
        which = "largest rise with language intact" if kept else "largest rise, language damaged"
        notes.append(f"{which}, at {_words.share(cell.fraction)} removed")
    value = f"{_words.rate(before)} \u2192 {_words.rate(cell.asr)}"
    return Fact(label=label, value=value, notes=tuple(notes))


def difference(cell: Cell) -> str:
    """Return the change of ASR with its interval, number of pairs and p value."""
    change = cell.asr_change
    if change is None:
        return ""
    parts = [_words.points(change.value)]
    if change.interval:
        parts.append(f"95 % interval {_words.points_interval(change.interval)}")
    parts += [f"{change.num_pairs} prompts, paired", _words.p_value(change.p_value)]
    return ", ".join(part for part in parts if part)


def _strongest_control(metrics: Metrics, cell: Cell | None) -> Fact:
    label = "Strongest control of the same size"
    found = controls(metrics)
    measured = [control for control in found if control.rise is not None]
    if not measured:
        why = "every control destroyed the model" if found else "no controls were run"
        note = why if cell or found else "no working set to compare one with"
        return Fact(label=label, value=_words.NONE, notes=(note,))
    measured.sort(key=lambda control: -(control.rise or 0.0))
    others = "; ".join(
        f"{_words.ARMS[control.arm]} {_words.points(control.rise)}" for control in measured[1:]
    )
    notes = (_control_note(measured[0]), *([others] if others else []))
    return Fact(label=label, value=_words.points(measured[0].rise), notes=notes)


def _control_note(control: Control) -> str:
    sets = "set" if control.num_cells == 1 else "sets"
    interval = control.asr_rise and control.asr_rise.interval
    bounds = f", {_words.points_interval(interval)}" if interval else ""
    return (
        f"{_words.ARMS[control.arm]} ({control.num_cells} {sets}{bounds}), "
        f"perplexity {_words.ratio(control.perplexity_ratio)}"
    )
