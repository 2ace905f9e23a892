"""A document's kind and licence family are told from its words."""

import pytest

from howdah.jobs.documents.classify import classify
from howdah.jobs.documents.licences import DISCLOSES_SOURCE, FAMILIES, agrees, families_of_spdx

MIT = """Permission is hereby granted, free of charge, to any person obtaining a copy of this software, subject to:
The above copyright notice and this permission notice shall be included in all copies or substantial portions."""
BSD2 = """Redistribution and use in source and binary forms, with or without modification, are permitted if:
1. Redistributions of source code must retain the above copyright notice.
2. Redistributions in binary form must reproduce the above copyright notice."""
BSD3 = BSD2 + "\n3. Neither the name of X may be used to endorse or promote products derived from this software."
ISC_GRANT = """Permission to use, copy, modify, and/or distribute this software for any purpose
with or without fee is hereby granted"""
ISC = ISC_GRANT + ", provided that the above copyright notice and this permission notice appear in all copies."


@pytest.mark.parametrize(
    ("text", "family"),
    [(MIT, "MIT"), (BSD2, "BSD-2-Clause"), (BSD3, "BSD-3-Clause"), (ISC, "ISC"), (ISC_GRANT, "0BSD")],
)
def test_a_licence_is_known_by_its_words_under_any_name_and_layout(text: str, family: str) -> None:
    for layout in (
        text,
        text.upper(),
        "\n".join(f"# {line}" for line in text.splitlines()),
        text.replace(" ", "\n   "),
    ):
        found = classify(layout, "document.txt")
        assert (found.kind, found.family, found.families) == ("licence", family, (family,))


def test_two_bsd_licences_in_one_file_keep_their_clauses_apart() -> None:
    found = classify(f"{BSD2}\n\n---\n\n{BSD3}\n\n{MIT}", "LICENSE")
    assert (found.family, found.families) == ("multiple", ("BSD-2-Clause", "BSD-3-Clause", "MIT"))


def test_a_notice_names_its_licence_with_less_confidence_than_the_text() -> None:
    notice = classify("Copyright X. Licensed under the Apache License, Version 2.0 (the License)", "NOTICE")
    assert (notice.kind, notice.family) == ("licence", "Apache-2.0")
    assert "under the apache license version 2 0" in notice.why
    assert notice.confidence < classify(MIT, "LICENSE").confidence


def test_a_licence_in_words_of_its_own_is_unknown() -> None:
    assert classify("Copyright X. All rights reserved. No warranty.", "LICENSE").family == "unknown"


def test_a_readme_that_quotes_its_licence_is_a_readme() -> None:
    readme = (
        "# Tool\n\n## Installation\n\n```\npip install tool\n```\n\n"
        + "It does things. " * 300
        + f"\n\n## License\n\n{MIT}"
    )
    for name in ("README.md", "document.txt"):
        found = classify(readme, name)
        assert (found.kind, found.family) == ("readme", None)


def test_prose_is_neither() -> None:
    assert classify("It was a bright cold day in April.", "notes.txt").kind == "other"


@pytest.mark.parametrize(
    ("declared", "families"),
    [
        ("MIT", {"MIT"}),
        ("Apache-2.0 OR BSD-2-Clause", {"Apache-2.0", "BSD-2-Clause"}),
        ("LGPL-3.0-or-later", {"LGPL-3.0"}),
        ("GPL-2.0+", {"GPL-2.0"}),
        ("GPL-3.0-only WITH GCC-exception-3.1", {"GPL-3.0"}),
        ("CC0-1.0 AND Zlib", {"CC0", "zlib"}),
        ("License :: OSI Approved :: Apache Software License", {"Apache-2.0"}),
        ("License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)", {"MPL-2.0"}),
        ("MIT License", {"MIT"}),
        ("BSD", {"BSD-2-Clause", "BSD-3-Clause"}),
        ("BSD-3-Clause; License :: OSI Approved :: BSD License", {"BSD-3-Clause"}),
        ("see the file LICENSE", set()),
        ("", set()),
    ],
)
def test_a_declaration_is_read_old_or_new(declared: str, families: set[str]) -> None:
    assert families_of_spdx(declared) == families


@pytest.mark.parametrize(
    ("found", "declared", "verdict"),
    [
        (("MIT",), "MIT OR Apache-2.0", "agree"),
        (("MIT", "PSF-2.0"), "MIT", "disagree"),
        ((), "MIT", "disagree"),
        (("MIT",), "", "undeclared"),
        (("BSD-3-Clause",), "BSD", "ambiguous"),
        (("MIT",), "BSD", "disagree"),
        (("MIT",), "see the file", "ambiguous"),
    ],
)
def test_found_and_declared_are_compared(found: tuple[str, ...], declared: str, verdict: str) -> None:
    assert agrees(found, declared).verdict == verdict


def test_families_that_disclose_source_are_families() -> None:
    assert set(DISCLOSES_SOURCE) <= FAMILIES
