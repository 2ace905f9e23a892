"""The demo's documents: licence and README texts of the Python distributions installed beside Howdah."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath
from typing import Literal

# Under this a text is a stub ("see GitHub"), with nothing to review.
MIN_BYTES = 200

_OWN = "howdah"
_LICENCE_FILE = re.compile(r"licen[cs]e|copying|notice", re.IGNORECASE)
_README_FILE = re.compile(r"readme", re.IGNORECASE)
_SUFFIX = {"text/markdown": ".md", "text/x-rst": ".rst", "text/plain": ".txt"}
_PLACEHOLDER = {"unknown", "dynamic"}


@dataclass(frozen=True, slots=True)
class CorpusDocument:
    """A text that a distribution carries. `name` is its path within the distribution; `declared_licence` is the SPDX
    expression, or the legacy `License` value and licence classifiers joined by "; ", or empty.
    """

    distribution: str
    version: str
    name: str
    kind_hint: Literal["licence", "readme"]
    data: bytes
    declared_licence: str


def installed_documents() -> list[CorpusDocument]:
    """Licence and README texts of over 200 bytes in the running environment, but Howdah's own.

    Sorted by distribution and name; of equal texts (many distributions carry the same Apache-2.0) only the first.
    """
    documents = [document for distribution in distributions() for document in _documents(distribution)]
    documents.sort(key=lambda d: (d.distribution.lower(), d.version, d.kind_hint, d.name))
    distinct: dict[bytes, CorpusDocument] = {}
    for document in documents:
        if len(document.data) > MIN_BYTES:
            distinct.setdefault(hashlib.sha256(document.data).digest(), document)
    return list(distinct.values())


def declared_licence(distribution: Distribution) -> str:
    """What the metadata says of the licence. An SPDX expression stands alone; older fields are joined."""
    metadata = distribution.metadata
    if "License-Expression" in metadata:
        return metadata["License-Expression"]
    # Some paste the whole licence into the field; its first line is the name.
    legacy = (metadata["License"].strip().splitlines() or [""])[0].strip() if "License" in metadata else ""
    classifiers = [c for c in metadata.get_all("Classifier") or [] if c.startswith("License ::")]
    return "; ".join(name for name in (legacy, *classifiers) if name and name.lower() not in _PLACEHOLDER)


def _documents(distribution: Distribution) -> Iterator[CorpusDocument]:
    metadata = distribution.metadata
    name, version = metadata["Name"], distribution.version
    if name.lower() == _OWN:
        return
    declared = declared_licence(distribution)
    for path in distribution.files or []:
        inside = _inside_metadata(PurePosixPath(path))
        if inside is None:
            continue
        is_licence = _LICENCE_FILE.search(inside.name) is not None
        if not is_licence and not _README_FILE.search(inside.name):
            continue
        located = Path(path.locate())
        if located.is_file():
            kind: Literal["licence", "readme"] = "licence" if is_licence else "readme"
            yield CorpusDocument(name, version, str(inside), kind, located.read_bytes(), declared)
    if "Description" in metadata:
        content_type = (metadata.get_all("Description-Content-Type") or [""])[0]
        suffix = _SUFFIX.get(content_type.split(";")[0].strip().lower(), ".txt")
        data = metadata["Description"].encode("utf-8", "replace")
        yield CorpusDocument(name, version, f"README{suffix}", "readme", data, declared)


def _inside_metadata(path: PurePosixPath) -> PurePosixPath | None:
    """The path below `.dist-info`; PEP 639 keeps licence files in `licenses/` there, older tools beside METADATA."""
    if not path.parts[0].endswith(".dist-info") or path.suffix == ".json":
        return None
    inside = PurePosixPath(*path.parts[1:])
    return PurePosixPath(*inside.parts[1:]) if len(inside.parts) > 1 and inside.parts[0] == "licenses" else inside
