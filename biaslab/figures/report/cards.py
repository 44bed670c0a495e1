"""Cards (Markdown of our own making) as HTML."""

from __future__ import annotations

from markdown_it import MarkdownIt
from markupsafe import Markup

__all__ = ["card_html"]

# no tags of the text's own, and nothing that leads out of a report
_LEADING = ["link", "image", "autolink", "reference"]
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table").disable(_LEADING)
# as every table of a report: one that is wider than the page scrolls by itself
_MARKDOWN.add_render_rule(
    "table_open", lambda *_: '<div class="wide" role="region" tabindex="0" aria-label="table"><table>\n'
)
_MARKDOWN.add_render_rule("table_close", lambda *_: "</table></div>\n")


def card_html(text: str) -> Markup:
    r"""Write a card as HTML; tags and links that it holds stay text.

    Parameters
    ----------
    text : str
        Markdown of `biaslab._util.cards.card_text`.

    Returns
    -------
    Markup

    Examples
    --------
    >>> from biaslab.figures.report.cards import card_html
    >>> print(card_html("# Mean profile\n\nOf **12** images <b>."))
    <h4>Mean profile</h4>
    <p>Of <strong>12</strong> images &lt;b&gt;.</p>
    <BLANKLINE>
    """
    tokens = _MARKDOWN.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = "h4"  # a card stands below a heading of the report
    return Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))
