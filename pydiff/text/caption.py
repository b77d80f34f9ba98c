"""Cleaning of prompts as captions from the web, with which DeepFloyd IF was trained.

The rules are those of IF (deepfloyd_if/modules/t5.py) in diffusers' reading of them, IFPipeline._clean_caption, and
stand in its order: markup and addresses first, then signs, numbers that mean nothing to a reader, advertisements, and
spaces last.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from functools import cache
from urllib.parse import unquote_plus

from pydiff._optional import optional

PASSES = 2  # what is left by one may be found by the next

Rule = tuple[str, str]  # pattern, replacement

_SITE = r"[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
_FILES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
_DASHES = (
    "-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
    "\ufe31\ufe32\ufe58\ufe63\uff0d"
)

_ADDRESSES: Sequence[Rule] = (
    ("<person>", "person"),
    (rf"\b(?:https?:(?:/{{1,3}}|[a-zA-Z0-9%])|{_SITE})", ""),
    (rf"\b(?:www:(?:/{{1,3}}|[a-zA-Z0-9%])|{_SITE})", ""),
)
_SIGNS: Sequence[Rule] = (
    (r"@\w+\b", ""),  # a nickname
    ("[\u31c0-\u9fff]+", ""),  # strokes, enclosed letters and ideographs of Chinese, Japanese and Korean
    (f"[{_DASHES}]+", "-"),
    ("[`\u00b4\u00ab\u00bb\u201c\u201d\u00a8]", '"'),
    ("[\u2018\u2019]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),  # an IP address
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#(?:\d{1,3}|\d{5,})\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.(?:{_FILES})", ""),
    ("[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)
_WORDS: Sequence[Rule] = (
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b(?:{_FILES})(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+\.?\d*[x\u0445\u00d7]\d+\.?\d*\b", ""),  # a size: the Latin x, the Cyrillic one, or a cross
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)
_HYPHEN = re.compile("[-_]")
MOST_HYPHENS = 3  # more of them join the words of a title


def clean_caption(prompt: str) -> str:
    """The prompt without markup, addresses, signs, file names and advertisements, in lower case. Raises ValueError that
    says what to install where beautifulsoup4 or ftfy is missing."""
    for _ in range(PASSES):
        prompt = _cleaned(prompt)
    return prompt


def _cleaned(caption: str) -> str:
    visible_text, repaired = _libraries()
    caption = _replaced(_ADDRESSES, unquote_plus(caption).strip().lower())
    caption = _replaced(_SIGNS, visible_text(caption))
    if len(_HYPHEN.findall(caption)) > MOST_HYPHENS:
        caption = _HYPHEN.sub(" ", caption)
    caption = html.unescape(html.unescape(repaired(caption)))
    return _replaced(_WORDS, caption).strip()


def _replaced(rules: Sequence[Rule], caption: str) -> str:
    for pattern, replacement in rules:
        caption = re.sub(pattern, replacement, caption)
    return caption


@cache
def _libraries() -> tuple[Callable[[str], str], Callable[[str], str]]:
    """What drops a text's markup, and what repairs wrongly decoded characters."""
    soup = optional("bs4", "beautifulsoup4", "clean_caption").BeautifulSoup
    return lambda text: str(soup(text, features="html.parser").text), optional("ftfy", "ftfy", "clean_caption").fix_text
