"""The words that questions are asked in: forms that training shows, and for each category one that it does not."""

from __future__ import annotations

import numpy as np

from biaslab.scenes.expressions import RELATIONS, Expression

#: forms by kind of question; ``{}`` is filled with a noun phrase, ``{a}`` and ``{b}`` with two
FORMS: dict[str, tuple[str, ...]] = {
    "existence": ("is there {} in the image?", "can you see {} in this picture?", "does the picture show {}?",
                  "is there {} that you can see?"),
    "counting": ("how many {} are there?", "how many {} can you see?", "how many {} are in the image?",
                 "what is the number of {}?"),
    "colour": ("what colour is the {}?", "what is the colour of the {}?", "which colour does the {} have?"),
    "size": ("is the {} big or small?", "is the {} small or big?", "what size is the {}?"),
    "relation": ("what is {} the {}?", "which object is {} the {}?", "what can you see {} the {}?"),
    "comparison": ("which is larger, the {a} or the {b}?", "what is larger, the {a} or the {b}?",
                   "which object is larger: the {a} or the {b}?"),
    "reading": ("what does the sign say?", "what is the word on the sign?", "which word can you see on the sign?",
                "read the sign."),
}  # fmt: skip
#: of each kind one form that no training split asks in; all its words occur in others
HELD_OUT: dict[str, str] = {
    "existence": "does this image show you {}?", "counting": "what number of {} does the picture show?",
    "colour": "the {} is of which colour?", "size": "does the {} that you see have a big or a small size?",
    "relation": "the object {} the {} is what?", "comparison": "the {a} or the {b}: which is larger?",
    "reading": "what can you read on the sign?",
}  # fmt: skip

_IRREGULAR = {"fish": "fish", "sheep": "sheep", "butterfly": "butterflies", "strawberry": "strawberries"}


def plural(name: str) -> str:
    """Write the plural of an object's name.

    Examples
    --------
    >>> from biaslab.scenes.gallery.forms import plural
    >>> [plural(name) for name in ("cat", "bus", "sheep", "strawberry", "dress")]
    ['cats', 'buses', 'sheep', 'strawberries', 'dresses']
    """
    if name in _IRREGULAR:
        return _IRREGULAR[name]
    return name + ("es" if name.endswith(("s", "ch", "sh", "x")) else "s")


def with_article(name: str) -> str:
    """Write a name with its article.

    Examples
    --------
    >>> from biaslab.scenes.gallery.forms import with_article
    >>> with_article("owl"), with_article("grapes"), with_article("bus")
    ('an owl', 'grapes', 'a bus')
    """
    if name in ("grapes", "corn", "cheese", "broccoli"):
        return name
    return ("an " if name[0] in "aeiou" else "a ") + name


def form_of(rng: np.random.Generator, kind: str, *, held_out: bool) -> str:
    """Draw one of the forms of a kind of question."""
    return HELD_OUT[kind] if held_out else FORMS[kind][int(rng.integers(len(FORMS[kind])))]


def held_out_expression(expression: Expression) -> str | None:
    """Say a referring expression in the form that no training split shows: "the cat that is left of the bus".

    Parameters
    ----------
    expression : Expression

    Returns
    -------
    str or None
        None where there is nothing to say otherwise: a bare name, or a side word in front of it.

    Examples
    --------
    >>> from biaslab.scenes.expressions import Expression, Head
    >>> from biaslab.scenes.gallery.forms import held_out_expression
    >>> said = [("red bus", "attribute", Head("bus", None, "red")), ("cat on the left", "location", Head("cat")),
    ...         ("the cat left of the bus", "relation", Head("cat")), ("cat", "attribute", Head("cat"))]
    >>> [held_out_expression(Expression(text, kind, 0, head)) for text, kind, head in said]
    ['the bus that is red', 'the cat that is on the left', 'the cat that is left of the bus', None]
    """
    head, text = expression.head, expression.text.removeprefix("the ")
    if expression.expression_type == "attribute":
        words = [word for word in (head.colour, head.size) if word]
        return f"the {head.name} that is {' and '.join(words)}" if words else None
    before, _, after = text.partition(str(head))
    if before:
        return f"the {head} that is {before.strip()}" if before.strip().endswith("most") else None
    if expression.expression_type == "relation" and not after.strip().startswith(tuple(RELATIONS)):
        return None
    return f"the {head} that is{after}"
