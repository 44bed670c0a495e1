r"""Text that goes into LaTeX tables.

pdfLaTeX reads UTF-8, but knows few letters: Latin ones, of which some only in the encoding T1, and no others. What it
can set by commands is written as such, so that a table needs no package beside booktabs; what it cannot stays as it is.
"""

from __future__ import annotations

import unicodedata

__all__ = ["escape", "not_for_pdflatex"]

# the replacements of pandas' Styler, which escapes cells and indices but no captions; all at once, so that none is
# escaped again, and with {} where Styler has a space, so that the space after a character stays
_SPECIAL = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}
_MATH = {
    "±": r"\pm", "∓": r"\mp", "×": r"\times", "÷": r"\div", "·": r"\cdot", "−": "-", "∗": r"\ast", "≤": r"\le",
    "≥": r"\ge", "≠": r"\ne", "≈": r"\approx", "∼": r"\sim", "≡": r"\equiv", "≪": r"\ll", "≫": r"\gg", "∞": r"\infty",
    "√": r"\surd", "∑": r"\sum", "∏": r"\prod", "∂": r"\partial", "∇": r"\nabla", "∈": r"\in", "∉": r"\notin",
    "∪": r"\cup", "∩": r"\cap", "⊂": r"\subset", "⊆": r"\subseteq", "∅": r"\emptyset", "∀": r"\forall",
    "∃": r"\exists", "¬": r"\neg", "∧": r"\wedge", "∨": r"\vee", "⊕": r"\oplus", "⊗": r"\otimes", "→": r"\rightarrow",
    "←": r"\leftarrow", "↔": r"\leftrightarrow", "↑": r"\uparrow", "↓": r"\downarrow", "⇒": r"\Rightarrow",
    "⇐": r"\Leftarrow", "⇔": r"\Leftrightarrow", "µ": r"\mu", "∆": r"\Delta", "Ω": r"\Omega", "★": r"\star",
    "ℓ": r"\ell", "′": "{}'", "″": "{}''", "⟨": r"\langle", "⟩": r"\rangle",
}  # fmt: skip
_SIGNS = {
    "\N{NO-BREAK SPACE}": "~", "\N{THIN SPACE}": r"\,", "\N{NARROW NO-BREAK SPACE}": r"\,", "–": "--", "—": "---",
    "\N{HYPHEN}": "-", "\N{NON-BREAKING HYPHEN}": r"\mbox{-}", "“": "``", "”": "''", "‘": "`", "’": "'",
    "…": r"\ldots{}", "•": r"\textbullet{}", "°": r"\textdegree{}", "§": r"\S{}", "¶": r"\P{}", "†": r"\dag{}",
    "‡": r"\ddag{}", "©": r"\copyright{}", "®": r"\textregistered{}", "™": r"\texttrademark{}", "£": r"\pounds{}",
    "€": r"\texteuro{}", "¥": r"\textyen{}", "¢": r"\textcent{}", "¡": r"\textexclamdown{}",
    "¿": r"\textquestiondown{}", "ª": r"\textordfeminine{}", "º": r"\textordmasculine{}", "‰": r"\textperthousand{}",
    "№": r"\textnumero{}", "ß": r"\ss{}", "ẞ": "SS", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}",
    "ø": r"\o{}", "Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}", "ȷ": r"\j{}",
}  # fmt: skip
# what the usual encoding OT1 lacks; T1 is part of LaTeX itself
_T1 = {
    "đ": r"\dj{}", "Đ": r"\DJ{}", "ð": r"\dh{}", "Ð": r"\DH{}", "þ": r"\th{}", "Þ": r"\TH{}", "ŋ": r"\ng{}",
    "Ŋ": r"\NG{}", "«": r"\guillemotleft{}", "»": r"\guillemotright{}", "‹": r"\guilsinglleft{}",
    "›": r"\guilsinglright{}", "„": r"\quotedblbase{}", "‚": r"\quotesinglbase{}",
}  # fmt: skip
_ACCENTS = {
    "GRAVE ACCENT": ("`", "grave"), "ACUTE ACCENT": ("'", "acute"), "CIRCUMFLEX ACCENT": ("^", "hat"),
    "TILDE": ("~", "tilde"), "MACRON": ("=", "bar"), "BREVE": ("u", "breve"), "DOT ABOVE": (".", "dot"),
    "DIAERESIS": ('"', "ddot"), "RING ABOVE": ("r", "mathring"), "CARON": ("v", "check"),
    "DOUBLE ACUTE ACCENT": ("H", ""), "CEDILLA": ("c", ""), "DOT BELOW": ("d", ""), "MACRON BELOW": ("b", ""),
    "OGONEK": ("k", ""),
}  # fmt: skip
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lamda mu nu xi omicron pi rho sigma tau upsilon phi chi "
    "psi omega"
).split()
_GREEK_FORMS = {
    "ϵ": r"\epsilon", "ϑ": r"\vartheta", "ϕ": r"\phi", "ϱ": r"\varrho", "ϖ": r"\varpi", "ς": r"\varsigma", "ο": "o",
    "λ": r"\lambda", "ε": r"\varepsilon", "φ": r"\varphi", "Λ": r"\Lambda",
}  # fmt: skip
_LIKE_LATIN = dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΧ", "ABEZHIKMNOPTX", strict=True))
_NOTHING = {chr(code) for code in (0xAD, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x2060, 0xFE0E, 0xFE0F, 0xFEFF)}


def escape(text: str) -> str:
    r"""Write text so that LaTeX, also pdfLaTeX without packages, sets it as it stands.

    Parameters
    ----------
    text : str
        Plain text.

    Returns
    -------
    str
        LaTeX: special characters escaped, accents, Greek and common signs as commands. Letters that pdfLaTeX cannot set
        (:func:`not_for_pdflatex`) stay, for LuaLaTeX and XeLaTeX.

    Examples
    --------
    >>> from biaslab._util.latex import escape
    >>> print(escape("keep_10%"))
    keep\_10\%
    >>> print(escape("Müller’s λ = 0.7 ± 0.1 …"))
    M\"{u}ller's $\lambda$ = 0.7 $\pm$ 0.1 \ldots{}
    """
    return "".join(_written(char) for char in unicodedata.normalize("NFC", text))


def not_for_pdflatex(latex: str) -> str:
    """List the letters of a text that pdfLaTeX cannot set, each once, in order; empty where it can set all.

    Parameters
    ----------
    latex : str
        Plain text or what :func:`escape` returned.

    Returns
    -------
    str

    Examples
    --------
    >>> from biaslab._util.latex import not_for_pdflatex
    >>> not_for_pdflatex("naïve, λ"), not_for_pdflatex("FastV 快 速快")
    ('', '快速')
    """
    letters = dict.fromkeys(unicodedata.normalize("NFC", latex))
    return "".join(char for char in letters if char > "~" and _written(char) == char)


def _written(char: str) -> str:
    if char <= "~":
        return _SPECIAL.get(char, char)
    if char in _NOTHING:
        return ""
    if char in _MATH:
        return f"${_MATH[char]}$"
    if char in _SIGNS:
        return _SIGNS[char]
    if char in _T1:
        return _in_t1(_T1[char])
    return _greek(char) or _accented(char) or _compatible(char) or char


def _in_t1(command: str) -> str:
    return rf"{{\fontencoding{{T1}}\selectfont{command}}}"


def _greek(char: str) -> str:
    """Set Greek letters in formulas, whose fonts every LaTeX has."""
    base, *marks = list(unicodedata.normalize("NFD", char))
    script, size, *rest = unicodedata.name(base, "").split() + [""]
    if base in _GREEK_FORMS:
        math = _GREEK_FORMS[base]
    elif base in _LIKE_LATIN:
        math = rf"\mathrm{{{_LIKE_LATIN[base]}}}"
    elif script == "GREEK" and rest[:1] == ["LETTER"] and len(rest) == 3 and rest[1].lower() in _GREEK:
        name = rest[1].lower()
        math = "\\" + (name if size == "SMALL" else name.capitalize())
    else:
        return ""
    return _in_math(math, marks)


def _accented(char: str) -> str:
    base, *marks = list(unicodedata.normalize("NFD", char))
    names = [unicodedata.name(mark, "").removeprefix("COMBINING ") for mark in marks]
    if not marks or not (base.isascii() and base.isalpha()) or not set(names) <= set(_ACCENTS):
        return ""
    if len(marks) > 1:  # a command sets one accent, formulas set them one above the other
        return _in_math(rf"\mathrm{{{base}}}", marks)
    command = rf"\{_ACCENTS[names[0]][0]}{{{base}}}"
    return _in_t1(command) if names == ["OGONEK"] else command


def _in_math(math: str, marks: list[str]) -> str:
    for mark in marks:
        name = unicodedata.name(mark, "").removeprefix("COMBINING ").replace("GREEK PERISPOMENI", "TILDE")
        accent = _ACCENTS.get(name, ("", ""))[1]
        if not accent:
            return ""
        math = rf"\{accent}{{{math}}}"
    return f"${math}$"


def _compatible(char: str) -> str:
    """Write small and raised figures, ligatures and wide letters as the plain ones that they stand for."""
    kind = unicodedata.decomposition(char).partition(" ")[0]
    plain = unicodedata.normalize("NFKC", char).replace("\N{FRACTION SLASH}", "/").replace("\N{MINUS SIGN}", "-")
    if not kind.startswith("<") or not plain.isascii():
        return ""
    plain = "".join(_SPECIAL.get(letter, letter) for letter in plain)
    return {"<super>": f"$^{{{plain}}}$", "<sub>": f"$_{{{plain}}}$"}.get(kind, plain)
