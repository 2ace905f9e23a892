"""Texts written for these tests, and real ones from the distributions that are installed."""

from importlib.metadata import distributions

PERMISSIVE = """Example Licence

You may use and copy these files, changed or not, provided that the following conditions are met:

1. Copies of the source code must retain this copyright notice and this list
   of conditions.
2. The names of the authors may not be used to endorse products made from
   these files, e.g. in advertisements.

THESE FILES COME "AS IS". IN NO EVENT SHALL THE AUTHORS BE LIABLE FOR ANY DAMAGES.
"""

COPYLEFT = """1. Distribution. If you distribute an executable form, you must also make the source code
available to everybody who receives it. You must license the entire work, as a whole, under this Licence.

2. Changes. Changed files must carry notices that say who changed them and when.

3. Patents. You may not assert a patent against users of the work. "Work" shall mean these files.
Anybody may read the work.
"""


def licences() -> list[tuple[str, str]]:
    """(name, text) of the licence files of installed distributions, of 500 bytes or more."""
    found = []
    for distribution in distributions():
        for file in distribution.files or ():
            if ".dist-info" in str(file) and "LICENSE" in file.name:
                text = file.locate().read_text(encoding="utf-8", errors="replace")  # type: ignore[attr-defined]
                if len(text) >= 500:
                    found.append((str(file), text))
    return found


def readmes() -> list[tuple[str, str]]:
    """(name, text) of the long descriptions of installed distributions, of 500 bytes or more."""
    found = []
    for distribution in distributions():
        text = distribution.metadata.get_payload()  # type: ignore[attr-defined]
        if isinstance(text, str) and len(text) >= 500:
            found.append((distribution.name, text))
    return found
