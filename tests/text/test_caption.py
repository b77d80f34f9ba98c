"""Captions are cleaned as diffusers' IFPipeline cleans them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from diffusers import IFPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from pydiff import _optional
from pydiff.text import caption
from pydiff.text.caption import clean_caption

PEER: Any = SimpleNamespace(bad_punct_regex=IFPipeline.bad_punct_regex)
# What the rules look for, so that random captions meet them.
PARTS = [
    *("a cat", "A Dog", "<person>", "http://a.com/x?y=1", "https:/b.org", "www:c", "www.shop.co/it-em", "me@home.net"),
    *(
        "<b>bold</b>",
        "<br/>",
        "&amp;",
        "&amp",
        "&quot",
        "&quot;",
        "&amp;lt;",
        "&nbsp;",
        "%20",
        "%3Ca%3E",
        "+",
        "@nick_1",
    ),
    *("星", "ㇰ", "㈱", "㍿", "㐀", "䷀", "\u2014", "\u2e3a", "-", "\u00ab", "\u201d", "\u2019", "\u00b4", "\u00a8"),
    *("192.168.0.1", "5:30 ", "\\n", "#12", "#1234", "#12345", "1234567", "photo.jpg", "a.b.pdf", '"""', "''", "...."),
    *("#", "®", "(x)", "[y]", "{z}", "|", "\\", "/", "*", "·", " . ", "_", "this-is-my-cute-cat", "jc6640", "jc6640vc"),
    *("6640vc231", "worldwide  free shipping", "free download free", "click for more", "click on it", "png images"),
    *(
        "jpg image",
        "page 12",
        "j2d1a2a",
        "10x20",
        "10.5\u0445 20",
        "10\u00d720cm",
        " : ",
        "a,b",
        "a.b",
        "x/y",
        "'quoted'",
    ),
    *("Ã©tÃ©", "ﬁ", "ï¿½", ":", ";", ",", ".", "'", '"', "\n", "\t", "free ", "shipping", "download", "Éa", "\u0130"),
]
# What is looked for at the ends of a caption.
WHOLE = [
    "",
    "  A  Red cat ",
    "5:30&nbsp;",
    "\u2018\u2018a",
    "10\u00d720",
    '"all quoted"',
    "a cat,",
    ".cat",
    "-cat+",
    "'",
]


def expected(text: str) -> str:
    return IFPipeline._clean_caption(PEER, IFPipeline._clean_caption(PEER, text))


@pytest.mark.parametrize("text", [*WHOLE, *PARTS, *(f"a {part} b" for part in PARTS)])
def test_every_rule(text: str) -> None:
    assert clean_caption(text) == expected(text)


@given(st.lists(st.sampled_from([*PARTS, " ", ""]), max_size=8).map("".join))
@settings(max_examples=400, deadline=None)
@pytest.mark.filterwarnings("ignore")  # what looks like a file name or an address
def test_rules_together(text: str) -> None:
    assert clean_caption(text) == expected(text)


@given(st.text(max_size=30))
@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_any_text(text: str) -> None:
    assert clean_caption(text) == expected(text)


@pytest.mark.parametrize(("module", "package"), [("bs4", "beautifulsoup4"), ("ftfy", "ftfy")])
def test_packages_that_are_not_there_are_named(module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = _optional.importlib.import_module

    def some_missing(name: str) -> Any:
        if name == module:
            raise ImportError(name)
        return real(name)

    caption._libraries.cache_clear()
    monkeypatch.setattr(_optional.importlib, "import_module", some_missing)
    with pytest.raises(ValueError, match=f"clean_caption needs the package {package}, .*: pip install '{package}'"):
        clean_caption("a cat")
