"""The text of a PDF, HTML, Markdown, reStructuredText or plain text; what cannot be read is refused with a sentence."""

import codecs
import io
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from howdah.jobs.documents.html import MAX_DEPTH, html_text, nests_too_deep

if TYPE_CHECKING:
    from pypdf import PdfReader

# A scanned book is below this; PDFs above it are nearly always images without text.
MAX_BYTES = 32 * 1024 * 1024
# pypdf reads 10 to 50 pages a second, so a document holds a thread for some minutes at most.
MAX_PAGES = 2_000
# A page of dense print has 6,000 characters, 100 KB of drawing commands; beyond this it is a drawing or a bomb.
MAX_PAGE_STREAM_BYTES = 8 * 1024 * 1024
# Text can unfold from compressed data: no more comes out than the greatest plain text that may go in.
MAX_CHARS = MAX_BYTES


class DocumentError(Exception):
    """All that can be wrong with a document."""


class DocumentRefused(DocumentError):
    """This document is not read; `reason` is a sentence for the person who sent it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Extracted:
    """A document's text: newlines are `\\n`, no NUL, no surrogate: Postgres stores it. `pages` for a PDF only."""

    text: str
    media_type: str
    title: str
    pages: int | None = None


_MEDIA_TYPES = {
    ".pdf": "application/pdf",
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "text/html",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".rst": "text/x-rst",
}

# What a file's first bytes say it is. (offset, bytes, name)
_BINARY: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF87a", "a GIF image"),
    (0, b"GIF89a", "a GIF image"),
    (8, b"WEBP", "a WebP image"),
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
    (0, b"\x7fELF", "an ELF program"),
    (0, b"MZ\x90\0", "a Windows program"),
    (0, b"\xcf\xfa\xed\xfe", "a macOS program"),
    (0, b"\xca\xfe\xba\xbe", "a Java class or macOS program"),
    (0, b"\0asm", "a WebAssembly module"),
    (0, b"\x1f\x8b\x08", "a gzip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ\0", "an xz archive"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"Rar!\x1a\x07", "a RAR archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Microsoft Office document"),
    (0, b"{\\rtf", "an RTF document"),
    (0, b"%!PS", "a PostScript document"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (4, b"ftyp", "an MP4 video"),
    (0, b"OggS", "an Ogg recording"),
    (0, b"ID3", "an MP3 recording"),
)
# Parts that tell one zip-based format from another; they are named near the beginning or in the directory at the end.
_ZIPPED: tuple[tuple[bytes, str], ...] = (
    (b"word/", "a Word document (docx)"),
    (b"xl/", "an Excel workbook (xlsx)"),
    (b"ppt/", "a PowerPoint presentation (pptx)"),
    (b"application/epub+zip", "an EPUB book"),
    (b"application/vnd.oasis.opendocument", "an OpenDocument file"),
)
_BOMS: tuple[tuple[bytes, str], ...] = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_HTML_START = re.compile(
    rb"\s*(?:<\?xml[^>]{0,200}\?>\s*)?(?:<!--.{0,2000}?-->\s*)*<(?:!doctype\s+html|html)[\s>]", re.I | re.S
)
_HTML_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?([A-Za-z0-9_:.-]{1,40})", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_NEWLINE = re.compile(r"\r\n|[\r\f\v\x85\u2028\u2029]")
_MARKDOWN_TITLE = re.compile(r"^\#{1,2}[ \t]+(\S[^\n]{0,300}?)[ \t#]*$", re.MULTILINE)
_RST_TITLE = re.compile(r"^([^\s=~#*^`-][^\n]{0,300})\n([=~#*^`-])\2{2,300}[ \t]*$", re.MULTILINE)
_TITLE_CHARS = 4_000  # a title is looked for in this much of the text


def extract(data: bytes, filename: str, max_bytes: int = MAX_BYTES) -> Extracted:
    """The text of a document, by its content first and its file name's extension second.

    Works in the calling thread, up to minutes for the longest PDF. Raises DocumentRefused with a sentence for what is
    empty, over `max_bytes`, broken, encrypted, without text, or of a format that is not read.
    """
    name = PurePath(filename).name or "document"
    if not data:
        raise DocumentRefused(f"{name} is empty (0 bytes)")
    if len(data) > max_bytes:
        raise DocumentRefused(f"{name} has {len(data):,} bytes; the limit is {max_bytes:,}")
    declared = _MEDIA_TYPES.get(PurePath(name).suffix.lower(), "text/plain")
    if data[:64].lstrip().startswith(b"%PDF-") or (declared == "application/pdf" and b"%PDF-" in data[:1024]):
        return _pdf(data, name)
    _refuse_binary(data, name)
    if declared == "application/pdf":
        raise DocumentRefused(f"{name} is a PDF that is none: it has no %PDF header in its first 1,024 bytes")
    is_html = declared == "text/html" or _HTML_START.match(data[:4096]) is not None
    text = _decoded(data, name, is_html)
    if is_html:
        if nests_too_deep(text):
            raise DocumentRefused(f"{name} nests HTML elements over {MAX_DEPTH:,} deep")
        text, title = html_text(text)
        return _finished(text, "text/html", title, name)
    head = _storable(text[:_TITLE_CHARS])
    titles = {"text/markdown": (_MARKDOWN_TITLE, _RST_TITLE), "text/x-rst": (_RST_TITLE,)}.get(declared, ())
    found = next((match[1] for match in (pattern.search(head) for pattern in titles) if match), "")
    return _finished(text, declared, found, name)


def _finished(text: str, media_type: str, title: str, name: str, pages: int | None = None) -> Extracted:
    text = _storable(text)
    if not text.strip():
        raise DocumentRefused(f"{name} holds no text")
    return Extracted(text, media_type, " ".join(_storable(title).split())[:300] or PurePath(name).stem, pages)


def _storable(text: str) -> str:
    return _SURROGATE.sub("\ufffd", _NEWLINE.sub("\n", text).replace("\0", ""))


def _refuse_binary(data: bytes, name: str) -> None:
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        ends = data[:8192] + data[-65_536:]
        looks = next((what for mark, what in _ZIPPED if mark in ends), "a zip archive")
    else:
        looks = next((what for offset, mark, what in _BINARY if data.startswith(mark, offset)), "")
    if looks:
        raise DocumentRefused(
            f"{name} looks like {looks}; PDF, HTML, Markdown, reStructuredText and plain text are read"
        )


def _decoded(data: bytes, name: str, is_html: bool) -> str:
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            try:
                text = data.decode(encoding)
            except UnicodeDecodeError as error:
                raise DocumentRefused(f"{name} begins as {encoding} text, but byte {error.start:,} is not") from error
            if "\0" in text:
                raise DocumentRefused(f"{name} is not text: it holds NUL characters")
            return text
    if (at := data.find(b"\0")) >= 0:
        raise DocumentRefused(f"{name} is not text: byte {at:,} is NUL")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = _decoded_by_guess(data, is_html)
    # Escape sequences of terminals and the odd stray byte are in real texts; one character in fifty is not.
    controls = len(_CONTROL.findall(text))
    if controls * 50 > len(text):
        raise DocumentRefused(
            f"{name} is not text: {controls:,} of its {len(text):,} characters are control characters"
        )
    return text


def _decoded_by_guess(data: bytes, is_html: bool) -> str:
    """The charset an HTML page states, else Windows-1252, else Latin-1, which every byte is."""
    stated = _HTML_CHARSET.search(data[:1024]) if is_html else None
    for encoding in (*([stated[1].decode("ascii")] if stated else []), "cp1252"):
        try:
            return data.decode(encoding)
        except (UnicodeError, LookupError):
            continue
    return data.decode("latin-1")


def _pdf(data: bytes, name: str) -> Extracted:
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, FileNotDecryptedError

    try:
        reader = PdfReader(io.BytesIO(data))
        texts = _page_texts(reader, name)
        title = str((reader.metadata and reader.metadata.title) or "")
    except DocumentRefused:
        raise
    except (FileNotDecryptedError, DependencyError) as error:
        raise DocumentRefused(f"{name} is an encrypted PDF; remove its password and send it again") from error
    except Exception as error:
        # pypdf raises errors of any class on damaged files; each of them means the same to the sender.
        raise DocumentRefused(f"{name} is a PDF that is none, or damaged ({type(error).__name__}: {error})") from error
    if not any(text.strip() for text in texts):
        raise DocumentRefused(
            f"{name} is a PDF of {len(texts):,} pages with no text layer, probably scanned; OCR it first"
        )
    return _finished("\n\n".join(texts), "application/pdf", title, name, len(texts))


def _page_texts(reader: "PdfReader", name: str) -> list[str]:
    pages = len(reader.pages)
    if pages > MAX_PAGES:
        raise DocumentRefused(f"{name} has {pages:,} pages; the limit is {MAX_PAGES:,}")
    texts: list[str] = []
    room = MAX_CHARS
    for page_number, page in enumerate(reader.pages, start=1):
        contents = page.get_contents()
        if contents is not None and len(contents.get_data()) > MAX_PAGE_STREAM_BYTES:
            raise DocumentRefused(f"{name}: page {page_number} has over {MAX_PAGE_STREAM_BYTES:,} bytes of content")
        texts.append(page.extract_text())
        room -= len(texts[-1])
        if room < 0:
            raise DocumentRefused(f"{name} holds over {MAX_CHARS:,} characters of text")
    return texts
