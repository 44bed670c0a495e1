"""The work that a method is from, and its entry in BibTeX."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Citation", "bibtex"]


@dataclass(frozen=True, kw_only=True)
class Citation:
    """A published work, as far as it could be verified.

    Parameters
    ----------
    key : str
        Of the entry: name of the method in small letters, and year.
    title : str
    year : int
    arxiv : str
        Identifier, such as "2503.02175"; empty for none.
    authors : tuple of str
        Full names in order; empty where they are not known for certain: then the entry has none.
    venue : str
        Where it was published, such as "CVPR 2025"; empty for arXiv alone.

    Examples
    --------
    >>> work = Citation(key="rule2030", title="A Rule", year=2030, arxiv="3001.00001", authors=("Ada Li", "Bo Wu"))
    >>> print(work.bibtex())
    @misc{rule2030,
      title = {{A Rule}},
      author = {Ada Li and Bo Wu},
      year = {2030},
      eprint = {3001.00001},
      archivePrefix = {arXiv},
    }
    """

    key: str
    title: str
    year: int
    arxiv: str = ""
    authors: tuple[str, ...] = ()
    venue: str = ""

    def bibtex(self) -> str:
        """Write the entry: @inproceedings where a venue is known, else @misc."""
        kind = "inproceedings" if self.venue else "misc"
        fields = {
            "title": f"{{{self.title}}}",
            "author": " and ".join(self.authors),
            "booktitle": self.venue,
            "year": str(self.year),
            "eprint": self.arxiv,
            "archivePrefix": "arXiv" if self.arxiv else "",
            "note": f"arXiv:{self.arxiv}" if self.arxiv and not self.authors else "",
        }
        lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
        return "\n".join([f"@{kind}{{{self.key},", *lines, "}"])


def bibtex(works: tuple[Citation, ...] | list[Citation]) -> str:
    """Write the entries of several works, each once, in the order of their keys.

    Parameters
    ----------
    works : sequence of Citation

    Returns
    -------
    str
        Entries with an empty line between them; empty for none.

    Examples
    --------
    >>> one, other = (Citation(key=k, title=k.upper(), year=2030) for k in "ba")
    >>> [line for line in bibtex([one, other, one]).splitlines() if line.startswith("@")]
    ['@misc{a,', '@misc{b,']
    """
    return "\n\n".join(work.bibtex() for _, work in sorted({work.key: work for work in works}.items()))
