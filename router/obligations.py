"""Sentences that oblige the reader to do something or forbid it."""

import re
from collections.abc import Iterator

from howdah.router.request import Quote
from howdah.router.sentences import Sentence, split_sentences

_OBLIGES = re.compile(
    r"\b(?:must|shall|(?:is|are|be) required to|requires? (?:you|that)|may not|may only|you can ?not|"
    r"(?:is|are) not (?:permitted|allowed|authori[sz]ed|granted)|(?:is|are) (?:prohibited|forbidden)|"
    r"(?:is|are) (?:obligated|obliged) to|you agree to|only (?:if|under the (?:terms|conditions))|"
    r"provided,? (?:that|however)|on (?:the )?condition that|as long as|neither .{1,200}? may|"
    r"not grant permission|without (?:specific )?(?:prior )?written permission|should not be used)\b"
)
# Modal verbs that oblige nobody who reads: definitions, disclaimers, what a grantor or the licence itself does.
_NOT_ON_THE_READER = re.compile(
    r"\bin no event\b|\bunder no circumstances\b|\bshall (?:mean|include|have the meaning|not include|be deemed|"
    r"terminate|survive|apply|be construed|be reformed|not be liable|in no way|remain)\b|\bno event shall\b|"
    r"\bshall (?:any|the) (?:author|copyright|contributor|licensor)|\bshall (?:\w+ ){0,8}be (?:held )?liable\b|"
    r"\bnothing (?:herein|in th(?:is|e))\b|\bmust be construed\b|\bcannot be held\b|\blicensor shall\b|"
    r"\bas[- ]is\b|\bcopies of this licen[sc]e document\b| \*$|"
    r"\bmay not apply to you\b|\bshall (?:\w+ ){0,6}constitute\b|"
    r"\bshall be (?:governed|interpreted)\b"
)
_OPENS_LIST = re.compile(
    r"(?:condition|restriction|requirement|obligation)s?(?: (?:are|is) met)?[^.]{0,80}:\s*$"
    r"|\b(?:all|one|any|each) of (?:the following|these)[^.]{0,80}:\s*$"
    r"|\b(?:must|shall|provided that|required to|may not)[^.]{0,120}:\s*$",
)
_NOT_A_LIST_OF_DUTIES = re.compile(
    r"\b(?:definitions?|defined|means?|following terms have)\b|"
    r"\bmay\b(?! not)(?:(?!\bif\b|\bprovided\b)[^,;:]){0,60}:\s*$"
)
_MARKER = re.compile(r"^(?:[-*+•o]|\(?(?:[\d.]{1,12}|[a-zA-Z]{1,5})[.)])\s+")

# In order: the first whose words occur names the kind.
_KINDS = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (
            "no-endorsement",
            r"\bendors|\bnot grant .{0,60}\b(?:trade|name)|"
            r"\bpromote products|\bpromote or advertis|\badvertising or otherwise to promote",
        ),
        ("notice", r"\b(?:remove|alter the substance|obscure|delete)\b.{0,80}\bnotice"),
        (
            "same-licence",
            r"\b(?:must|shall) be (?:under|licensed)|limit or alter|licen[sc]e the entire work|governed by the terms",
        ),
        (
            "state-changes",
            r"(?:stating|notice|marked|document|indicat|describ|carry|mark|note).{0,80}"
            r"(?:chang|modif|altered|different)|altered source versions|(?:changed|modified) (?:files|versions?).{0,60}"
            r"(?:carry|marked|notice)|brief summary of (?:the )?changes",
        ),
        (
            "notice",
            r"(?:retain|reproduc|includ|intact|carry|give|display|appear|contain|accompan|preserv|bear|keep|provide).{0,160}"
            r"(?:notice|copyright|cop(?:y|ies) of (?:this|the)\b.{0,30}(?:licen[sc]e|gpl)|attribution|disclaimer)"
            r"|(?:notice|copyright|attribution|licen[sc]e text)s?\b.{0,160}"
            r"(?:retain|includ|reproduc|preserv|kept|appear|attach)",
        ),
        (
            "disclose-source",
            r"(?:corresponding|minimal corresponding|complete|machine-readable|preferred|form of the|made available in|"
            r"available in|obtain|provide|distribut|convey|offer|disclos|copy of|accompan|access to).{0,120}"
            r"\bsource(?: code|[- ]form|\b)|\bsource code\b.{0,120}(?:available|provid|disclos|distribut|convey)",
        ),
        (
            "same-licence",
            r"under (?:the terms (?:and conditions )?of )?(?:this|the same|that|these|a version of|version \S+ of th)|"
            r"further restrictions|sublicens|licensed as a whole|same licen[sc]e|under section|restrict",
        ),
        ("no-endorsement", r"trade ?mark|trade names?|service marks?|product names|publicity|name of "),
        ("patent", r"\bpatent|litigation|royalt"),
        ("no-warranty", r"warrant|liabilit|liable|indemnif|hold harmless|as[- ]is"),
    )
)


def obligations(text: str, count: int) -> list[Quote]:
    """Quote the sentences of ``text`` that oblige its reader, in the text's order, each with its kind.

    A sentence counts when it has words of duty or of a ban and is no definition or disclaimer, or when it opens an item
    of a list that the sentence before announced as conditions. Of more than ``count``, those of kind ``"other"`` go
    first, then the last ones. Linear in the length of the text.
    """
    quotes = list(_find(text))
    if len(quotes) > count:
        kept = sorted(range(len(quotes)), key=lambda i: (quotes[i].kind == "other", i))[:count]
        quotes = [quotes[i] for i in sorted(kept)]
    return quotes


def kind_of(sentence: str) -> str:
    """What an obligation asks for, one of the kinds listed at :class:`Quote`."""
    words = " ".join(sentence.lower().split())
    return next((kind for kind, pattern in _KINDS if pattern.search(words)), "other")


def _find(text: str) -> Iterator[Quote]:
    list_indent: int | None = None
    announced = False
    for sentence in split_sentences(text):
        words = " ".join(text[sentence.start : sentence.end].lower().split())
        in_list = False
        if sentence.item and announced:
            list_indent, announced = sentence.indent, False
        if list_indent is not None:
            in_list = sentence.item and sentence.indent >= list_indent
            if not sentence.item and sentence.indent <= list_indent and _opens_block(text, sentence):
                list_indent = None
        opens = _OPENS_LIST.search(words) is not None and not _NOT_A_LIST_OF_DUTIES.search(words)
        announced = opens
        if _is_duty(words, in_list=in_list, opens=opens):
            yield _quote(text, sentence)


def _is_duty(words: str, *, in_list: bool, opens: bool) -> bool:
    if _NOT_ON_THE_READER.search(words) or len(words) < 12:
        return False
    if opens and not re.search(r"\b(?:must|shall|may not)\b", words):
        return False
    return in_list or _OBLIGES.search(words) is not None


def _opens_block(text: str, sentence: Sentence) -> bool:
    line = text.rfind("\n", 0, sentence.start) + 1
    return not text[line : sentence.start].strip()


def _quote(text: str, sentence: Sentence) -> Quote:
    quoted = text[sentence.start : sentence.end]
    marker = _MARKER.match(quoted) if sentence.item else None
    start = sentence.start + (marker.end() if marker else 0)
    return Quote(text[start : sentence.end], start, sentence.end, kind_of(text[start : sentence.end]))
