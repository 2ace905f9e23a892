"""The text of an HTML page, with its blocks on lines of their own."""

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode


def _names(tags: str) -> frozenset[str]:
    return frozenset(tags.split())


_DROPPED = ["script", "style", "noscript", "template", "svg", "iframe", "object", "head"]
_BLOCKS = _names(
    """
    address article aside blockquote body dd details div dl dt fieldset figcaption figure footer form header hr
    html li main nav ol p pre section summary table tbody tfoot thead tr ul h1 h2 h3 h4 h5 h6
    """
)
_PARAGRAPHS = _names(
    """
    p pre blockquote table ul ol dl h1 h2 h3 h4 h5 h6 section article
    """
)
_CELLS = frozenset(("td", "th"))

# Browsers stop at 512. The parser's time grows with the square of the depth: 4,000 take 20 ms, 200,000 a minute.
MAX_DEPTH = 2_000

# Elements that need no end tag, and so add no depth when they have none.
_UNCLOSED = _names(
    """
    area base br col embed hr img input link meta param source track wbr p li dt dd tr td th thead tbody tfoot
    option optgroup colgroup rp rt html head body
    """
)
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9:-]{0,40})")


def nests_too_deep(page: str) -> bool:
    """Whether elements stand more than MAX_DEPTH deep in one another, by counting tags, without parsing."""
    depth = 0
    for tag in _TAG.finditer(page):
        if tag[2].lower() in _UNCLOSED:
            continue
        depth = max(0, depth - 1) if tag[1] else depth + 1
        if depth > MAX_DEPTH:
            return True
    return False


def html_text(page: str) -> tuple[str, str]:
    """Text and title of a page. Scripts, styles and comments are dropped; paragraphs are parted by blank lines."""
    tree = LexborHTMLParser(page)
    title_node = tree.css_first("title") or tree.css_first("h1")
    title = title_node.text() if title_node is not None else ""
    tree.strip_tags(_DROPPED)
    writer = _Lines()
    if tree.body is not None:
        _walk(tree.body, writer)
    return writer.text(), title


class _Lines:
    """Collects words into lines, as a browser shows them: runs of blanks are one blank."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._gap = ""  # what parts the next word from the last; the strongest one asked for
        self._preformatted = 0

    def part(self, gap: str) -> None:
        if len(gap) > len(self._gap) or (gap == "\n" and self._gap in {" ", "\t"}):
            self._gap = gap

    def preformatted(self, change: int) -> None:
        self._preformatted += change

    def write(self, words: str) -> None:
        if self._preformatted:
            bare = words
        else:
            bare = " ".join(words.split())
            if words[:1].isspace():
                self.part(" ")
        if not bare:
            return
        if self._parts:
            self._parts.append(self._gap)
        self._parts.append(bare)
        self._gap = " " if not self._preformatted and words[-1:].isspace() else ""

    def text(self) -> str:
        return "".join(self._parts)


def _walk(root: LexborNode, lines: _Lines) -> None:
    """Depth first by pointers, not by recursion: a page may nest deeper than Python's stack."""
    node: LexborNode | None = root
    depth = 0
    while node is not None:
        _enter(node, lines)
        below = node.first_child
        if below is not None:
            node, depth = below, depth + 1
            continue
        while node is not None:
            _leave(node, lines)
            if depth == 0:
                return
            following = node.next
            if following is not None:
                node = following
                break
            node, depth = node.parent, depth - 1


def _enter(node: LexborNode, lines: _Lines) -> None:
    tag = node.tag
    if tag == "-text":
        lines.write(node.text_content or "")
    elif tag == "br":
        lines.part("\n")
    elif tag in _CELLS:
        lines.part("\t")
    elif tag in _BLOCKS:
        lines.part("\n\n" if tag in _PARAGRAPHS else "\n")
        if tag == "li":
            lines.write("-")
            lines.part(" ")
        elif tag == "pre":
            lines.preformatted(1)


def _leave(node: LexborNode, lines: _Lines) -> None:
    tag = node.tag
    if tag in _BLOCKS:
        lines.part("\n\n" if tag in _PARAGRAPHS else "\n")
        if tag == "pre":
            lines.preformatted(-1)
