"""Cards (Markdown of our own making) as HTML: headings, lists, tables, bold and code, and nothing else."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

__all__ = ["card_html"]

_BOLD, _CODE = re.compile(r"\*\*(.+?)\*\*"), re.compile(r"`([^`]+)`")


def card_html(text: str) -> Markup:
    r"""Write a card as HTML; whatever is no mark of ours stays text.

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
    >>> print(card_html("# Mean profile\n\nOf **12** images <b>.\n\n| a | b |\n|---|---|\n| x | 1 |"))
    <h4>Mean profile</h4>
    <p>Of <strong>12</strong> images &lt;b&gt;.</p>
    <table><tr><td>a</td><td>b</td></tr><tr><td>x</td><td>1</td></tr></table>
    """
    out: list[str] = []
    for part in re.split(r"\n\s*\n", text.strip()):
        lines = part.splitlines()
        while lines:
            if lines[0].startswith("#"):
                out.append(f"<h4>{_inline(lines.pop(0).lstrip('#').strip())}</h4>")
            elif lines[0].startswith("|"):
                rows = []
                while lines and lines[0].startswith("|"):
                    rows.append(lines.pop(0))
                out.append(_table(rows))
            elif lines[0].startswith("- "):
                items = []
                while lines and lines[0].startswith("- "):
                    items.append(f"<li>{_inline(lines.pop(0)[2:])}</li>")
                out.append(f"<ul>{''.join(items)}</ul>")
            else:
                words = []
                while lines and not lines[0].startswith(("#", "|", "- ")):
                    words.append(lines.pop(0))
                out.append(f"<p>{_inline(' '.join(words))}</p>")
    return Markup("\n".join(out))


def _inline(text: str) -> str:
    text = str(escape(text))
    return _CODE.sub(r"<code>\1</code>", _BOLD.sub(r"<strong>\1</strong>", text))


def _table(lines: list[str]) -> str:
    rows = [[cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]] for line in lines]
    rows = [row for row in rows if not all(re.fullmatch(r":?-+:?", cell) for cell in row) and any(row)]
    return (
        "<table>"
        + "".join("<tr>" + "".join(f"<td>{_inline(c)}</td>" for c in row) + "</tr>" for row in rows)
        + "</table>"
    )
