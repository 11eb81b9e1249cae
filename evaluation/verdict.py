"""What may be said in one sentence: no more than the statistics allow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from evaluation.contrasts import CONTROLS, Contrast, Pair
from evaluation.results import AS_IT_IS, PAIRED, Run
from evaluation.statistics import ALPHA
from evaluation.strata import Stratum, stratum_name

Kind: TypeAlias = Literal["helps", "second_view", "uncontrolled", "hurts", "unclear"]
KINDS: tuple[Kind, ...] = ("helps", "second_view", "uncontrolled", "hurts", "unclear")
DEPLOYED = "imagenet-1k"
# So many models are told one by one; more are summed up.
_MOST_NAMED = 3


@dataclass(frozen=True, eq=False)
class Judged:
    """One run with all that its verdict rests on."""

    run: Run
    contrasts: Mapping[Pair, Contrast]
    strata: Mapping[str, Sequence[Stratum]]

    @property
    def against_plain(self) -> Contrast | None:
        return self.contrasts.get(("cropped", "plain"))

    @property
    def not_beaten(self) -> list[str]:
        """The controls that ran and that the crop does not beat."""
        return [name for name in CONTROLS if (one := self.contrasts.get(("cropped", name))) and not one.better]

    @property
    def not_run(self) -> list[str]:
        return [name for name in CONTROLS if ("cropped", name) not in self.contrasts]

    @property
    def kind(self) -> Kind:
        """`helps` needs the crop to beat plain and every control; each of them has to be told, so none is adjusted."""
        plain = self.against_plain
        if plain is None or not (plain.better or plain.worse):
            return "unclear"
        if plain.worse:
            return "hurts"
        if self.not_beaten:
            return "second_view"
        return "uncontrolled" if self.not_run else "helps"

    @property
    def hurting(self) -> list[tuple[str, Stratum]]:
        """The strata where the crop is worse, after Holm over the strata of one kind."""
        return [
            (kind, stratum)
            for kind, strata in self.strata.items()
            for stratum in strata
            if stratum.difference < 0 and stratum.p_value_holm < ALPHA
        ]


def headline(judged: Sequence[Judged]) -> list[Judged]:
    """What the sentence is about: photos as they are, over the deployed label space, where these were measured."""
    conditions = list(dict.fromkeys(one.run.key.condition for one in judged))
    natural = [one for one in judged if one.run.as_it_is] or [
        one for one in judged if one.run.key.condition == conditions[0]
    ]
    spaces = {one.run.key.label_space for one in natural}
    space = DEPLOYED if DEPLOYED in spaces else next(iter(one.run.key.label_space for one in natural), "")
    return [one for one in natural if one.run.key.label_space == space]


def sentence(judged: Sequence[Judged]) -> str:
    """The verdict of a whole evaluation."""
    leading = headline(judged)
    if not leading:
        return "No photo was measured, so nothing can be said."
    first = leading[0].run
    shown = "as they are" if first.as_it_is else f"under “{first.key.condition}”"
    photos = f"{len(first):,} photo{'s' if len(first) != 1 else ''} {shown}"
    if len(first) == 1:
        photos = photos.replace("as they are", "as it is")
    clauses = [_of_kind(kind, chosen, leading) for kind in KINDS if (chosen := [o for o in leading if o.kind == kind])]
    natural = (AS_IT_IS, PAIRED, first.key.condition)
    under_stress = [
        one
        for one in judged
        if one.run.key.condition not in natural and one.run.key.label_space == first.key.label_space
    ]
    told = [", and ".join(clauses), _stress(under_stress), _where_it_hurts(leading)]
    text = "; ".join(part for part in told if part)
    return f"On {photos}, over the label space {first.key.label_space}, cropping to the detected box {text}."


def one_run(judged: Judged) -> str:
    """The verdict of one run, without its name."""
    return _of_kind(judged.kind, [judged], [judged])


def points(difference: float) -> str:
    rounded = round(100 * difference, 1) + 0.0  # no minus before a zero
    return f"{rounded:+.1f}".replace("-", "\N{MINUS SIGN}")


def _of_kind(kind: Kind, chosen: Sequence[Judged], among: Sequence[Judged]) -> str:
    figures = _several(chosen, among) if len(chosen) > _MOST_NAMED else _each(chosen, among)
    if kind == "helps":
        return f"helps beyond every control {figures}"
    if kind == "hurts":
        return f"hurts {figures}"
    if kind == "unclear":
        return f"makes no difference that can be told {figures}"
    if kind == "uncontrolled":
        missing = _listed(sorted({name for one in chosen for name in one.not_run}, key=CONTROLS.index))
        return f"beats the whole photo {figures}, though {missing} did not run beside it to rule out a mere second look"
    unbeaten = _listed(sorted({name for one in chosen for name in one.not_beaten}, key=CONTROLS.index), "or")
    return f"beats the whole photo {figures} but not {unbeaten}, so that the detector's part in it is not shown"


def _each(chosen: Sequence[Judged], among: Sequence[Judged]) -> str:
    return _listed([f"{_named(one, among)}{_figures(one)}" for one in chosen])


def _several(chosen: Sequence[Judged], among: Sequence[Judged]) -> str:
    gains = [_gain(one) for one in chosen]
    return f"with {len(chosen)} of {len(among)} models ({points(min(gains))} to {points(max(gains))} points)"


def _named(one: Judged, among: Sequence[Judged]) -> str:
    backbones = {other.run.key.backbone for other in among}
    detectors = {other.run.key.detector for other in among}
    names = [one.run.key.backbone] if len(backbones) > 1 else []
    names += [one.run.key.detector] if len(detectors) > 1 else []
    return f"with {' and '.join(names)} " if names else ""


def _figures(one: Judged) -> str:
    contrast = one.against_plain
    if contrast is None:
        return "(not measured)"
    interval = contrast.paired.interval
    told = f", 95 % interval {points(interval.low)} to {points(interval.high)}" if interval else ""
    return f"({points(contrast.paired.difference)} points{told})"


def _stress(judged: Sequence[Judged]) -> str:
    """How many of the stressed runs fall out which way, and the largest gain."""
    words: dict[Kind, str] = {
        "helps": "helps beyond every control in",
        "second_view": "beats the whole photo but not every control in",
        "uncontrolled": "beats the whole photo in",
        "hurts": "hurts in",
        "unclear": "makes no difference that can be told in",
    }
    counts = {kind: sum(one.kind == kind for one in judged) for kind in KINDS}
    best = max(judged, key=_gain, default=None)
    parts = []
    for kind in KINDS:
        if counts[kind]:
            most = f" (at most {points(_gain(best))} points, “{best.run.key.condition}”)" if best else ""
            told = most if best and best.kind == kind and kind not in ("hurts", "unclear") else ""
            parts.append(f"{words[kind]} {counts[kind]}{told}")
    return f"of {len(judged)} stress runs it {_listed(parts)}" if parts else ""


def _gain(one: Judged) -> float:
    contrast = one.against_plain
    return contrast.paired.difference if contrast else float("-inf")


def _where_it_hurts(leading: Sequence[Judged]) -> str:
    """The strata of box area, or else of score, that lose; each with its worst run."""
    worst: dict[str, tuple[float, str]] = {}
    for one in leading:
        for kind, stratum in one.hurting:
            if kind in ("area", "score"):
                text = stratum_name(kind, stratum)
                worst[text] = min(worst.get(text, (1.0, "")), (stratum.difference, kind))
    area = {text: figure for text, (figure, kind) in worst.items() if kind == "area"}
    chosen = area or {text: figure for text, (figure, _) in worst.items()}
    if not chosen:
        return ""
    return "it hurts " + _listed([f"{text} ({points(figure)} points)" for text, figure in chosen.items()])


def _listed(parts: Sequence[str], word: str = "and") -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} {word} {parts[-1]}"
