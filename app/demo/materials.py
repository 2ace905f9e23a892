"""Which documents are reviewed: a person's own, or those of the installed distributions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from howdah.app.demo.corpus import installed_documents
from howdah.app.demo.story import Material

# A folder with more is a disk, not a review.
MAX_DOCUMENTS = 1000


def from_installed() -> list[Material]:
    """Licence and README texts of the Python distributions in this environment."""
    return [
        Material(f"{document.distribution}/{document.name}", document.data, document.declared_licence)
        for document in installed_documents()
    ]


def from_paths(paths: Iterable[Path]) -> list[Material]:
    """These files, and those in these folders but hidden ones.

    Raises
    ------
    click.ClickException
        If there are none, or more than 1,000.
    """
    files = [file for path in paths for file in _files(path)]
    if not files:
        raise click.ClickException("no files there: name a document, or a folder that has some")
    if len(files) > MAX_DOCUMENTS:
        raise click.ClickException(
            f"{len(files):,} files are more than the {MAX_DOCUMENTS:,} of one review: name fewer"
        )
    return [Material(str(file), file.read_bytes()) for file in files]


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for found in sorted(path.rglob("*")):
        if found.is_file() and not any(part.startswith(".") for part in found.relative_to(path).parts):
            yield found
