"""The licence families that Howdah tells apart, and how a declared licence maps to them.

Data first: the phrases by which a whole licence text is known, the phrases by which a short notice names one, and which
families oblige to disclose source. Phrases are written as `words` makes them: lower case, words and figures only.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

MULTIPLE = "multiple"
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LicenceText:
    """A whole licence is present where `opens` is, if all of `holds` follow before the next licence opens."""

    family: str
    opens: str
    holds: tuple[str, ...] = ()


_PERMISSIVE_BSD = "redistribution and use in source and binary forms with or without modification"
_BSD_BINARY = "in binary form must reproduce the above copyright"
_BSD_ENDORSE = "endorse or promote products derived from"
_BSD_ADVERTISE = "all advertising materials mentioning features"
_ZPL_TRADEMARKS = "servicemarks"
_NOTICE_IN_COPIES = "notice appear in all copies"

# Of rules with the same opening the first that holds wins.
LICENCE_TEXTS: tuple[LicenceText, ...] = (
    LicenceText(
        "MIT",
        "permission is hereby granted free of charge to any person obtaining a copy",
        ("shall be included in all copies or substantial portions",),
    ),
    LicenceText("ZPL", _PERMISSIVE_BSD, (_ZPL_TRADEMARKS,)),
    LicenceText("BSD-4-Clause", _PERMISSIVE_BSD, (_BSD_BINARY, _BSD_ADVERTISE)),
    LicenceText("BSD-3-Clause", _PERMISSIVE_BSD, (_BSD_BINARY, _BSD_ENDORSE)),
    LicenceText("BSD-2-Clause", _PERMISSIVE_BSD, (_BSD_BINARY,)),
    LicenceText(
        "Apache-2.0",
        "terms and conditions for use reproduction and distribution",
        ("grant of patent license", "you must give any other recipients of the work or derivative works a copy"),
    ),
    LicenceText(
        "MPL-2.0",
        "means each individual or legal entity that creates contributes to the creation of or owns covered software",
        ("covered software is provided under this license on an as is basis",),
    ),
    LicenceText(
        "ISC", "permission to use copy modify and or distribute this software for any purpose", (_NOTICE_IN_COPIES,)
    ),
    LicenceText(
        "ISC", "permission to use copy modify and distribute this software for any purpose", (_NOTICE_IN_COPIES,)
    ),
    LicenceText(
        "0BSD",
        "permission to use copy modify and or distribute this software for any purpose",
        ("with or without fee is hereby granted",),
    ),
    LicenceText(
        "HPND",
        "permission to use copy modify and distribute this software and its documentation",
        ("appear in supporting documentation",),
    ),
    LicenceText("PSF-2.0", "python software foundation license version 2", ("psf is making python available",)),
    LicenceText("PSF-2.0", "python software foundation license version 2", ("psf is making this software available",)),
    LicenceText(
        "LGPL-2.1", "gnu lesser general public license version 2 1 february 1999", ("work that uses the library",)
    ),
    LicenceText("LGPL-3.0", "this license refers to version 3 of the gnu lesser general public license"),
    LicenceText(
        "GPL-2.0", "gnu general public license version 2 june 1991", ("if you distribute copies of such a program",)
    ),
    LicenceText("GPL-3.0", "this license refers to version 3 of the gnu general public license"),
    LicenceText("AGPL-3.0", "this license refers to version 3 of the gnu affero general public license"),
    LicenceText("Unlicense", "this is free and unencumbered software released into the public domain"),
    LicenceText("CC0", "cc0 1 0 universal", ("affirmer overtly fully permanently irrevocably",)),
    LicenceText("ZPL", "zope public license zpl version"),
    LicenceText(
        "zlib",
        "in no event will the authors be held liable for any damages arising from the use of this software",
        ("origin of this software must not be misrepresented",),
    ),
    LicenceText(
        "BSL-1.0", "permission is hereby granted free of charge to any person or organization obtaining a copy"
    ),
)

# A family that is part of another's own text, and so no licence of its own there.
PART_OF: dict[str, str] = {"HPND": "PSF-2.0"}  # CWI's terms close Python's stack of licences.

# The names by which notices name a licence, after words such as "licensed under".
NAMES: dict[str, tuple[str, ...]] = {
    "MIT": ("mit license", "mit licence"),
    "Apache-2.0": ("apache license version 2 0", "apache license 2 0", "apache 2 0 license", "apache software license"),
    "MPL-2.0": ("mozilla public license version 2 0", "mozilla public license v 2 0", "mpl 2 0", "mplv2 0"),
    "BSD-2-Clause": ("bsd 2 clause license", "2 clause bsd license", "simplified bsd license"),
    "BSD-3-Clause": ("bsd 3 clause license", "3 clause bsd license", "new bsd license", "modified bsd license"),
    "ISC": ("isc license",),
    "PSF-2.0": ("python software foundation license", "psf license"),
    "GPL-2.0": ("gnu general public license version 2", "gnu gpl version 2"),
    "GPL-3.0": ("gnu general public license version 3", "gnu gpl version 3"),
    "LGPL-2.1": ("gnu lesser general public license version 2 1",),
    "LGPL-3.0": ("gnu lesser general public license version 3", "gnu lgpl version 3"),
    "AGPL-3.0": ("gnu affero general public license version 3",),
    "CC0": ("creative commons cc0", "cc0 1 0 universal"),
    "ZPL": ("zope public license",),
}

# Sentences that give a work up without a licence's text.
PUBLIC_DOMAIN: tuple[tuple[str, str], ...] = (
    ("CC0", "to the extent possible under law the author has dedicated all copyright"),
    ("CC0", "to the extent possible under law the author s have dedicated all copyright"),
    ("Public-Domain", "placed in the public domain"),
    ("Public-Domain", "dedicated to the public domain"),
    ("Public-Domain", "released into the public domain"),
    ("Public-Domain", "is in the public domain"),
)

# Families that oblige whoever passes on a program to disclose source: "strong" of the whole work (AGPL already when it
# is used over a network), "weak" of the licensed files or library and its changes. An absent family obliges to none.
DISCLOSES_SOURCE: dict[str, Literal["strong", "weak"]] = {
    "GPL-2.0": "strong",
    "GPL-3.0": "strong",
    "AGPL-3.0": "strong",
    "LGPL-2.1": "weak",
    "LGPL-3.0": "weak",
    "MPL-2.0": "weak",
}

FAMILIES: frozenset[str] = frozenset({rule.family for rule in LICENCE_TEXTS} | {"Public-Domain"})

_SPDX_OTHERWISE = {
    "cc0-1.0": "CC0",
    "python-2.0": "PSF-2.0",
    "zpl-2.0": "ZPL",
    "zpl-2.1": "ZPL",
    "zlib-acknowledgement": "zlib",
}

# Names that people wrote before SPDX. Several families: the name does not say which.
_LEGACY: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (pattern, frozenset(families.split()))
    for pattern, families in (
        (r"(gnu )?(affero general public license|agpl).*", "AGPL-3.0"),
        (r"(gnu )?(lesser general public license|lgpl) ?v?3.*", "LGPL-3.0"),
        (r"(gnu )?(lesser general public license|lgpl) ?v?2.*", "LGPL-2.1"),
        (r"(gnu )?(library or )?(lesser general public license|lgpl).*", "LGPL-2.1 LGPL-3.0"),
        (r"(gnu )?(general public license|gpl) ?v?3.*", "GPL-3.0"),
        (r"(gnu )?(general public license|gpl) ?v?2.*", "GPL-2.0"),
        (r"(gnu )?(general public license|gpl).*", "GPL-2.0 GPL-3.0"),
        (r"(mit|expat)( license)?( mit)?", "MIT"),
        (r"apache( software)?( license)?( version)?( ?v?2( 0)?)?", "Apache-2.0"),
        (r"(mozilla public license|mpl)( version)? ?v?2 0( mpl 2 0)?", "MPL-2.0"),
        (r"isc( license)?( iscl)?", "ISC"),
        (r"(zero clause bsd|bsd zero clause|0bsd)( license)?( 0bsd)?", "0BSD"),
        (r"(bsd 3 clause|3 clause bsd|new bsd|modified bsd|bsd new)( license)?", "BSD-3-Clause"),
        (r"(bsd 2 clause|2 clause bsd|simplified bsd)( license)?", "BSD-2-Clause"),
        (r"bsd( license)?", "BSD-2-Clause BSD-3-Clause"),
        (r"(python software foundation license|psf|psfl|psf license|python license)", "PSF-2.0"),
        (r"(the )?unlicense( unlicense)?", "Unlicense"),
        (r"zope public license.*", "ZPL"),
        (r"historical permission notice and disclaimer( hpnd)?", "HPND"),
        (r"(zlib|zlib libpng)( license)?", "zlib"),
        (r"cc0 1 0 universal.*", "CC0"),
        (r"public domain", "Public-Domain"),
    )
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the families found in a text compare with what its distribution declares; `detail` is a sentence."""

    verdict: Literal["agree", "disagree", "undeclared", "ambiguous"]
    detail: str


@dataclass(frozen=True, slots=True)
class _Declared:
    """`certain` families; `vague` ones of which one is meant; `unread` parts that name no family known here."""

    certain: frozenset[str]
    vague: frozenset[str]
    unread: tuple[str, ...]


def words(text: str) -> str:
    """`text` as lower-case words and figures with single spaces; quotes, wrapping and comment marks are gone."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def families_of_spdx(expression: str) -> frozenset[str]:
    """The families that an SPDX expression, a legacy `License` value or licence classifiers (joined by `;`) name.

    A name that leaves the version open ("BSD") gives every family it may mean; one that is not known here gives none.
    """
    declared = _read(expression)
    return declared.certain | declared.vague


def agrees(found: frozenset[str] | tuple[str, ...], declared: str) -> Agreement:
    """Compare the families found in one text with what its distribution declares.

    A text agrees if every family in it is declared: a distribution under two licences keeps each in a file of its own.
    """
    families = frozenset(found) - {MULTIPLE, UNKNOWN}
    if not declared.strip() or words(declared) in {"unknown", "none", "license unknown"}:
        return Agreement("undeclared", "the distribution declares no licence")
    reading = _read(declared)
    if not reading.certain | reading.vague:
        return Agreement("ambiguous", f"declares {_shown(declared)}, which names no family known here")
    if not families:
        return Agreement("disagree", f"declares {_shown(declared)}; no known licence was recognised in the text")
    extra = families - reading.certain - reading.vague
    if extra and reading.unread:
        return Agreement("ambiguous", f"found {_listed(extra)}; {_shown(declared)} is known here only in part")
    if extra:
        return Agreement("disagree", f"found {_listed(families)}; declares {_shown(declared)}, not {_listed(extra)}")
    if families & reading.vague:
        return Agreement("ambiguous", f"found {_listed(families)}; {_shown(declared)} leaves open which is meant")
    return Agreement("agree", f"found {_listed(families)}, declared as {_shown(declared)}")


def _read(declared: str) -> _Declared:
    certain: set[str] = set()
    vague: list[frozenset[str]] = []
    unread: list[str] = []
    for part in filter(None, (piece.strip() for piece in declared.split(";"))):
        legacy = _legacy(part)
        if legacy is None:
            known, unknown = _spdx(part)
            certain |= known
            unread += unknown
        elif len(legacy) == 1:
            certain |= legacy
        else:
            vague.append(legacy)
    # "BSD License" beside "BSD-3-Clause" says nothing new.
    open_names = frozenset().union(*(choice for choice in vague if not choice & certain))
    return _Declared(frozenset(certain), open_names, tuple(unread))


def _legacy(name: str) -> frozenset[str] | None:
    plain = words(name.rsplit("::", 1)[-1]).replace("licence", "license").removeprefix("the ")
    return next((families for pattern, families in _LEGACY if re.fullmatch(pattern, plain)), None)


def _spdx(expression: str) -> tuple[frozenset[str], list[str]]:
    from license_expression import ExpressionError, ExpressionParseError

    if (
        len(expression) > 1000
    ):  # a whole licence pasted into the field; SPDX expressions in use stay under 200 characters
        return frozenset(), [expression[:40]]
    try:
        symbols = _licensing().license_keys(expression, unique=True)
    except (ExpressionError, ExpressionParseError, AttributeError):
        return frozenset(), [expression]
    known = {symbol: _family_of_symbol(symbol) for symbol in symbols if "exception" not in symbol.lower()}
    return frozenset(f for f in known.values() if f), [symbol for symbol, family in known.items() if not family]


def _family_of_symbol(symbol: str) -> str | None:
    key = symbol.lower().removesuffix("-only").removesuffix("-or-later").removesuffix("+")
    if key in _SPDX_OTHERWISE:
        return _SPDX_OTHERWISE[key]
    return next((family for family in FAMILIES if family.lower() == key), None)


@cache
def _licensing() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


def _listed(families: frozenset[str]) -> str:
    return ", ".join(sorted(families))


def _shown(declared: str) -> str:
    line = " ".join(declared.split())
    return f"“{line[:77]}…”" if len(line) > 80 else f"“{line}”"
