"""What kind of document a text is: a licence (and of which family), a readme, or something else."""

import re
from dataclasses import dataclass
from typing import Literal

from howdah.jobs.documents.licences import (
    LICENCE_TEXTS,
    MULTIPLE,
    NAMES,
    PART_OF,
    PUBLIC_DOMAIN,
    UNKNOWN,
    LicenceText,
    families_of_spdx,
    words,
)

Kind = Literal["licence", "readme", "other"]

# Beyond this a text is classified by its beginning: the longest file of collected licences seen has 160,000 characters.
MAX_CHARS = 2_000_000
# A file not named for a licence is a notice only if it is short: a longer one that names a licence is about more.
NOTICE_CHARS = 4_000

_LICENCE_NAME = re.compile(r"licen[cs]e|copying|notice|copyright|legal", re.IGNORECASE)
_README_NAME = re.compile(r"(^|[/\\])read[-_ ]?me", re.IGNORECASE)
_SPDX_TAG = re.compile(r"^\W{0,8}(?:SPDX-License-Identifier|License):[ \t]*([^\r\n*]{1,200})", re.MULTILINE)
_UNDER = r"(?:under|terms of|to|see|either|of)(?: the)?(?: terms of)?(?: the| a)? "
_GNU_PUBLISHED = "as published by the free software foundation "

_LEGAL_WORDS = (
    "copyright",
    "permission",
    "warranty",
    "warranties",
    "liability",
    "licensed under",
    "license agreement",
    "redistribut",
    "all rights reserved",
    "terms of",
    "made available under",
)
_README_SIGNS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern, re.IGNORECASE | re.MULTILINE))
    for name, pattern in (
        ("an install command", r"\b(?:pip3?|uv|pipx|poetry|conda|npm|cargo|brew)\s+(?:-m\s+)?(?:install|add)\b"),
        ("a section on installing", r"^\W{0,8}install(?:ation|ing)?\W*$"),
        ("a section on use", r"^\W{0,8}(?:usage|quick ?start|getting started|examples?|basic usage|features)\W*$"),
        ("a badge", r"badge|shields\.io|\.\. image::"),
        ("a code block", r"^ {0,3}(?:```|~~~)|^\.\. code(?:-block)?::|>>> "),
        (
            "a section on contributing",
            r"^\W{0,8}(?:contributing|development|changelog|documentation|links|support)\W*$",
        ),
        ("links", r"\]\(https?://|`_|https?://[^\s]*(?:readthedocs|github)"),
    )
)


@dataclass(frozen=True, slots=True)
class Classification:
    """What a text is.

    `family` is a licence family, "multiple" (then `families` lists them: whole texts, then those only named), "unknown"
    for a licence of no known family, and None for what is no licence. `confidence` is from 0 to 1. `why` quotes the
    phrase found, in lower-case words without punctuation.
    """

    kind: Kind
    family: str | None
    confidence: float
    why: str
    families: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Found:
    family: str
    phrase: str
    start: int
    end: int


def classify(text: str, filename: str) -> Classification:
    """Classify a document by its text first and its file name second. Linear in the length of the text."""
    head = text[:MAX_CHARS]
    flat = words(head)
    named_licence = bool(_LICENCE_NAME.search(filename)) and not _README_NAME.search(filename)
    whole = _whole_licences(flat)
    signs = [name for name, pattern in _README_SIGNS if pattern.search(head)]
    if whole and (named_licence or _mostly(whole, flat) or len(signs) < 2):
        return _licence(whole, _notices(head, flat))
    if _README_NAME.search(filename) or (len(signs) >= 2 and not named_licence):
        return _readme(signs, filename)
    notices = _notices(head, flat)
    legal = [word for word in _LEGAL_WORDS if word in flat]
    if notices and (named_licence or (len(flat) <= NOTICE_CHARS and len(legal) >= 2)):
        return _licence((), notices)
    if legal and (named_licence or len(legal) >= 5):
        confidence = 0.6 if named_licence else 0.4
        return Classification(
            "licence", UNKNOWN, confidence, f"speaks of “{legal[0]}”, but in the words of no known licence"
        )
    return Classification("other", None, 0.5, "neither a licence's words nor a readme's sections were found")


def _whole_licences(flat: str) -> tuple[_Found, ...]:
    """The licences whose text is in `flat`, one for each family, in order.

    The text is cut wherever a licence opens, so that a clause of one is never counted to its neighbour.
    """
    by_opening: dict[str, list[LicenceText]] = {}
    for rule in LICENCE_TEXTS:
        by_opening.setdefault(rule.opens, []).append(rule)
    starts = sorted((match.start(), opens) for opens in by_opening for match in re.finditer(re.escape(opens), flat))
    found: dict[str, _Found] = {}
    ends = [*(start for start, _ in starts), len(flat)][1:]
    for (start, opens), after in zip(starts, ends, strict=True):
        section = flat[start:after]
        for rule in by_opening[opens]:
            if all(phrase in section for phrase in rule.holds):
                found.setdefault(rule.family, _Found(rule.family, opens, start, after))
                break
    return tuple(f for f in found.values() if PART_OF.get(f.family) not in found)


def _notices(text: str, flat: str) -> tuple[_Found, ...]:
    """The licences that a text names as its own without their whole text, one for each family, in order."""
    found: list[_Found] = []
    for tag in _SPDX_TAG.finditer(text):
        found += [_Found(family, words(tag[0]), 0, 0) for family in sorted(families_of_spdx(tag[1]))]
    plain = re.sub(f"{_GNU_PUBLISHED}(?:either )?", "", flat)
    for family, names in NAMES.items():
        pattern = f"{_UNDER}(?:{'|'.join(map(re.escape, names))})(?! \\d)"
        if match := re.search(pattern, plain):
            found.append(_Found(family, match[0], match.start(), match.end()))
    for family, phrase in PUBLIC_DOMAIN:
        if (at := flat.find(phrase)) >= 0:
            found.append(_Found(family, phrase, at, at + len(phrase)))
    first: dict[str, _Found] = {}
    for notice in sorted(found, key=lambda f: f.start):
        first.setdefault(notice.family, notice)
    if len(first) > 1:
        first.pop("Public-Domain", None)
    return tuple(first.values())


def _mostly(whole: tuple[_Found, ...], flat: str) -> bool:
    """Whether the licences begin in the first fifth: a readme that quotes its licence quotes it at the end."""
    return whole[0].start <= max(600, len(flat) // 5)


def _licence(whole: tuple[_Found, ...], notices: tuple[_Found, ...]) -> Classification:
    has = {found.family for found in whole}
    named = tuple(n for n in notices if n.family not in has and not (whole and n.family == "Public-Domain"))
    families = tuple(found.family for found in (*whole, *named))
    texts = [f"{found.family} by “{found.phrase}”" for found in whole]
    names = [f"{found.family} named by “{found.phrase}”" for found in named]
    confidence = 0.7 if not whole else 0.85 if named else 0.97
    return Classification(
        "licence", families[0] if len(families) == 1 else MULTIPLE, confidence, "; ".join(texts + names), families
    )


def _readme(signs: list[str], filename: str) -> Classification:
    if not _README_NAME.search(filename):
        return Classification("readme", None, min(0.9, 0.5 + 0.1 * len(signs)), f"has {', '.join(signs[:3])}")
    if not signs:
        return Classification("readme", None, 0.6, "its file name says so, its text neither does nor denies it")
    return Classification("readme", None, 0.95, f"its file name says so, and it has {', '.join(signs[:3])}")
