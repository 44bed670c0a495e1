"""Names of objects out of an answer to "what is in this image?", however a model writes its list."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["names_in"]

_WORDS, _LETTERS = 4, 40  # what is longer is a sentence, no name
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^\s*```\w*\s*$", re.MULTILINE)
_LABEL = re.compile(r"[\"'](?:label|name|object)[\"']\s*:\s*[\"']([^\"'\n]+)[\"']")  # of JSON with boxes
_BOX = re.compile(r"<box>.*?</box>|[\[(]\s*[-\d.,\s\[\]()]*\d[-\d.,\s\[\]()]*[\])]", re.DOTALL)
_TAG = re.compile(r"</?\w+[^<>\n]*>|<\|[^<>\n]*\|>")
_ASIDE = re.compile(r"\([^()]*\)")
_MARK = re.compile(r"^\s*(?:[-*+•–—·]+|\(?\d{1,2}[.):](?!\d)|\(?[a-z]\))\s*", re.IGNORECASE)
_NUMBERED = re.compile(r"(?<=[\w.])\s+(?=\(?\d{1,2}[.)]\s)")  # 1. cat 2. dog
_APART = re.compile(r"[,;•|、，；。\n]|(?<!\d)\.\s|\s+(?:and|&)\s+", re.IGNORECASE)
_PLACE = re.compile(r"^(?:in the )?(?:fore|back|middle )ground$|^(?:on the )?(?:left|right)(?: side)?$", re.IGNORECASE)
_LEAD = re.compile(
    r"\b(?:objects?|items?|things?|image|picture|photo|photograph|scene|list|following|sure|here|answer|are|include)\b",
    re.IGNORECASE,
)
_FRAME = re.compile(
    r"^(?:(?:sure|yes|certainly)[,!.]?\s+)?"
    r"(?:(?:in\s+)?(?:the|this)\s+(?:image|picture|photo|photograph|scene)[,]?\s*(?:also\s+)?"
    r"(?:(?:shows|contains|features|depicts|includes|has|captures|is of)\s+|there\s+(?:is|are)\s+"
    r"|(?:i|we|you)\s+(?:can\s+)?see\s+)"
    r"|there\s+(?:is|are)\s+(?:also\s+)?|(?:i|we|you)\s+(?:can\s+)?see\s+|it\s+(?:shows|contains|features|depicts)\s+"
    r"|(?:the\s+)?(?:main\s+|visible\s+)?(?:objects?|items?|things?)(?:\s+in\s+(?:the|this)\s+\w+)?\s+(?:are|is|include)\s+)",
    re.IGNORECASE,
)
_COUNT = re.compile(
    r"^(?:an?|the|some|several|many|multiple|various|other|another|few|couple of|pair of|group of|"
    r"one|two|three|four|five|six|seven|eight|nine|ten|\d+)\s+",
    re.IGNORECASE,
)
_DETAIL = re.compile(
    r"\s+(?:(?:that|which|who|with|on|in|at|near|under|behind|above|below|beside|by|from|next to|in front of)\s"
    r"|\w+ing\s+(?:an?|the|on|in|at|to|by|near|with|for)\s|(?:is|are|was|were|can be|seen|visible)\b).*$",
    re.IGNORECASE,
)
_NOTHING = frozenset(
    "etc, etc., none, nothing, no, yes, no objects, no object, object, objects, item, items, thing, things, image, "
    "image, photo, photograph, scene, more, others, other, so on, other objects, other items, n/a, unknown".split(", ")
)


def names_in(answer: str, *, cut: bool = False) -> list[str]:
    r"""Split an answer into names of objects.

    Lists come apart at line ends, commas, semicolons, bullets, numbers and "and". Of each part what introduces a list
    ("The image shows", "Objects:"), bullets, numbering, quotes, boxes, tags, what stands in parentheses or behind a
    colon or a dash, articles and counts are taken off, and a detail that follows ("a man riding a wave", "the cup on
    the table"). Words are written small, but for acronyms. Left out are repetitions, what has no letter, words for
    nothing ("none", "etc.") and what has more than 4 words or 40 characters: sentences.

    Parameters
    ----------
    answer : str
    cut : bool
        Whether it was cut at the limit of new tokens: its last name may be half of one and is left out, unless it is
        the only one.

    Returns
    -------
    list of str
        In the order of the answer; none where it names nothing.

    Examples
    --------
    >>> names_in("1. A red car\n2. Two people (walking)\n3. **TV**: on the wall")
    ['red car', 'people', 'TV']
    >>> names_in("The image features a man riding a wave, a surfboard and the man.")
    ['man', 'surfboard']
    >>> names_in("[[120, 40, 380, 200]]")
    []
    """
    parts = list(_parts(_THOUGHT.sub("\n", answer)))
    names = [name for part in parts if (name := _name(part))]
    if cut and len(names) > 1 and _name(parts[-1]) == names[-1]:
        names.pop()
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(name.casefold(), name)
    return list(first.values())


def _parts(text: str) -> Iterator[str]:
    text = _FENCE.sub("", text)
    if labels := _LABEL.findall(text):
        yield from labels
        return
    text = _TAG.sub("\n", _BOX.sub("\n", text))
    text = re.sub(r"[*_`\"“”\[\]{}]", "", _NUMBERED.sub("\n", text))
    for line in text.split("\n"):
        yield from _APART.split(_listed(_MARK.sub("", _ASIDE.sub("", line)).strip()))


def _listed(line: str) -> str:
    """Take off what introduces a list, and what explains a single name."""
    head, colon, tail = line.partition(":")
    if colon:
        introduces = not tail.strip() or len(head.split()) > _WORDS or _LEAD.search(head) or _PLACE.match(head.strip())
        line = tail if introduces else head
    return _FRAME.sub("", re.split(r"\s[-–—]\s", line.strip(), maxsplit=1)[0])


def _name(part: str) -> str:
    """Make a name of a part of a list; "" where it is none."""
    name = _MARK.sub("", part).strip(" \t\r.!?:;'’‘")
    name = re.sub(r"^(?:and|or|also)\s+", "", name, flags=re.IGNORECASE)
    name = _FRAME.sub("", name)
    while (shorter := _COUNT.sub("", name)) != name:
        name = shorter
    name = " ".join(_DETAIL.sub("", name + " ").split())
    if not any(map(str.isalpha, name)) or len(name.split()) > _WORDS or len(name) > _LETTERS:
        return ""
    name = " ".join(word if len(word) > 1 and word.isupper() else word.lower() for word in name.split())
    return "" if name.casefold() in _NOTHING else name
