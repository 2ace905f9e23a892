"""Documents are read by what they are, and each that cannot be is refused with a sentence."""

import io
import zipfile

import pytest
from pypdf import PdfWriter

from howdah.jobs.documents.extract import DocumentError, DocumentRefused, extract


def pdf(*lines: str) -> bytes:
    """A PDF with a page for each line, written by hand."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(lines)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(lines)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for n, line in enumerate(lines):
        stream = f"BT /F1 12 Tf 72 700 Td ({line}) Tj ET".encode() if line else b"0 0 m 9 9 l S"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R"
            " /Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    out, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    at = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return bytes(out + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, at))


def encrypted_pdf() -> bytes:
    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    writer.encrypt("secret", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def zipped(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, "x")
    return out.getvalue()


def test_the_pages_of_a_pdf_are_read_in_order() -> None:
    found = extract(pdf("First page here", "Second page here"), "a.pdf")
    assert (found.text, found.media_type, found.pages) == ("First page here\n\nSecond page here", "application/pdf", 2)


def test_a_pdf_is_known_by_its_content_under_any_name() -> None:
    assert extract(pdf("Known"), "a.txt").media_type == "application/pdf"


def test_html_loses_scripts_and_keeps_its_blocks_on_lines() -> None:
    page = b"<!doctype html><title>A &amp; B</title><style>p{}</style>"
    page += b"<p>one <b>two</b>three<br>four<script>no()</script><ul><li>x<li>y</ul>"
    found = extract(page, "page")
    assert (found.text, found.title, found.media_type) == ("one twothree\nfour\n\n- x\n- y", "A & B", "text/html")


def test_html_is_decoded_by_the_charset_it_states() -> None:
    assert extract("<html><meta charset=koi8-r><p>привет".encode("koi8-r"), "a.html").text == "привет"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_text_is_read_in_the_encodings_that_people_send(encoding: str) -> None:
    assert extract("café – naïve\r\nend\r".encode(encoding), "a.txt").text == "café – naïve\nend\n"


def test_titles_come_from_headings_else_from_the_file_name() -> None:
    assert extract(b"text\n\n## My title ##\n", "a.md").title == "My title"
    assert extract(b"My title\n========\n", "a.rst").title == "My title"
    assert extract(b"no title", "dir/notes.txt").title == "notes"


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (b"", "a.txt", "empty"),
        (b" \n\t", "a.txt", "holds no text"),
        (b"<html><script>x</script></html>", "a.html", "holds no text"),
        (b"plain text", "a.pdf", "a PDF that is none: it has no %PDF header"),
        (b"%PDF-1.7\nrubbish", "a.pdf", "a PDF that is none, or damaged"),
        (pdf("text")[:150], "a.pdf", "a PDF that is none, or damaged"),
        (encrypted_pdf(), "a.pdf", "encrypted"),
        (pdf(""), "a.pdf", "no text layer, probably scanned"),
        (zipped("word/document.xml"), "a.docx", "looks like a Word document"),
        (zipped("a.txt"), "a.txt", "looks like a zip archive"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 99, "a.md", "looks like a PNG image"),
        (b"\xff\xd8\xff\xe0xxxx", "a.pdf", "looks like a JPEG image"),
        (b"\x7fELF\2\1\1", "program", "looks like an ELF program"),
        (b"text\0more", "a.txt", "byte 4 is NUL"),
        ("a\0b".encode("utf-16"), "a.txt", "holds NUL characters"),
        (b"\xff\xfea", "a.txt", "begins as utf-16 text, but"),
        (bytes(range(1, 9)) * 9, "a.txt", "control characters"),
        (b"<html>" + b"<div>" * 100_000, "a.html", "nests HTML elements over 2,000 deep"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(data: bytes, name: str, reason: str) -> None:
    with pytest.raises(DocumentRefused) as refused:
        extract(data, name)
    assert reason in refused.value.reason
    assert refused.value.reason.startswith(name)
    assert isinstance(refused.value, DocumentError)


def test_a_document_over_the_limit_is_refused_and_one_at_it_is_read() -> None:
    assert extract(b"12345", "a.txt", max_bytes=5).text == "12345"
    with pytest.raises(DocumentRefused, match="6 bytes; the limit is 5"):
        extract(b"123456", "a.txt", max_bytes=5)


def test_fifty_megabytes_are_refused_by_default() -> None:
    with pytest.raises(DocumentRefused, match="52,428,800 bytes"):
        extract(bytes(50 * 1024 * 1024), "a.pdf")


def test_a_character_that_postgres_cannot_hold_does_not_come_out_of_html() -> None:
    text = extract(b"<html><p>a&#0;b&#xD800;c", "a.html").text
    assert "\0" not in text
    text.encode()
