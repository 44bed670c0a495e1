"""The model card of a profile on the hub: YAML front matter, the profile's own card, and what its owner wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biaslab.errors import InputError
from biaslab.profiles.file import card
from biaslab.profiles.hub import HubName

if TYPE_CHECKING:
    import pandas as pd

    from biaslab.profiles.learned import LearnedMaps

__all__ = ["front_matter", "hub_card", "merged"]

_BEGIN, _END = "<!-- biaslab profile: begin -->", "<!-- biaslab profile: end -->"
_TAGS = ["biaslab", "attention", "positional-bias", "visual-token-pruning"]


def front_matter(
    profile: LearnedMaps, *, base_model: str | None = None, datasets: Sequence[str] = (), license: str | None = None
) -> dict[str, Any]:
    """Give what the hub reads of a card; what is not known is left out.

    Parameters
    ----------
    profile : Profile
        Fitted.
    base_model : str, optional
        Id on the hub of the model it was fitted to; default the name in its provenance, where that is an id and no
        folder.
    datasets : sequence of str
        Ids on the hub of the calibration images.
    license : str, optional
        The owner's choice: none is assumed.

    Returns
    -------
    dict of str to Any
        In the order in which it is written.

    Examples
    --------
    >>> from biaslab import MeanProfile, TokenLayout
    >>> from biaslab.maps.simulate import simulate
    >>> from biaslab.workflows.hub_card import front_matter
    >>> maps = simulate("u-shaped", {TokenLayout.raster(4, 4, size=(56, 56), family="demo"): 60}).maps
    >>> said = front_matter(MeanProfile().fit(maps), base_model="OpenGVLab/InternVL3-1B-hf")
    >>> list(said), said["tags"][-1]
    (['library_name', 'base_model', 'tags'], 'mean')
    """
    model = str(profile.provenance_.get("model")) if base_model is None else base_model
    is_id = (name := HubName.read(model)) is not None and name.revision is None
    if base_model is not None and not is_id:
        raise InputError(f"base_model={base_model!r} is no id of the hub: give owner/name")
    family = profile.provenance_.get("family")
    said = {
        "library_name": "biaslab",
        "license": license,
        "base_model": model if is_id and (base_model is not None or not Path(model).exists()) else None,
        "datasets": list(datasets),
        "tags": [*_TAGS, *([str(family)] if family else []), profile.name],
    }
    return {key: value for key, value in said.items() if value}


def hub_card(
    profile: LearnedMaps,
    name: HubName,
    *,
    picture: str,
    files: Sequence[str] = (),
    diagnostics: pd.DataFrame | None = None,
    written: str | None = None,
) -> str:
    """Write the text below the front matter: the card that is saved beside a profile, its image, how it is used.

    Parameters
    ----------
    profile : Profile
        Fitted.
    name : HubName
        Where it is pushed.
    picture : str
        File of the image, in the repository.
    files : sequence of str
        Other files of the repository.
    diagnostics : DataFrame, optional
        What :func:`~biaslab.profiles.variance_table` returns.
    written : str, optional
        The card that was saved beside the profile, in place of a new one.

    Returns
    -------
    str
        Markdown.
    """
    revision = "" if name.revision is None else f', revision="{name.revision}"'
    use = [
        "## Use", "", "```python", "import biaslab as bl", "",
        f'profile = bl.load_profile("{name.repo}"{revision})', "```", "",
        f"or `--profile {name}` of `biaslab evaluate`, `bench`, `prune`, `probe` and `sinks`.", "",
        "## Image", "", f"![The profile as a map over the image]({picture})",
    ]  # fmt: skip
    if files:
        use += ["", "## Files", "", *(f"- [{file}](<{file}>)" for file in files)]
    if written is not None:
        return "\n".join([written.rpartition("\nUse: ")[0].rstrip(), "", *use, ""])
    return card(profile, name=name.repo, diagnostics=diagnostics, use=use)


def merged(text: str, said: Mapping[str, Any], before: str | None) -> str:
    r"""Put text and front matter together with what a card holds already.

    Parameters
    ----------
    text : str
        Of the profile.
    said : mapping
        Its front matter.
    before : str or None
        The card in the repository. Settings that are not ours stay, lists are joined, and text around ours stays.

    Returns
    -------
    str
        The new card.

    Raises
    ------
    InputError
        A card whose front matter cannot be read.

    Examples
    --------
    >>> from biaslab.workflows.hub_card import merged
    >>> print(merged("# Profile", {"tags": ["biaslab"]}, "---\nlicense: mit\ntags:\n- mine\n---\nMy words.\n"))
    ---
    license: mit
    tags:
    - mine
    - biaslab
    ---
    <BLANKLINE>
    <!-- biaslab profile: begin -->
    # Profile
    <!-- biaslab profile: end -->
    <BLANKLINE>
    My words.
    <BLANKLINE>
    """
    from huggingface_hub import ModelCard, ModelCardData

    ours = f"{_BEGIN}\n{text.strip()}\n{_END}"
    front: dict[str, Any] = {}
    rest = ""
    if before is not None and before.lstrip().startswith("---"):
        try:
            found = ModelCard(before, ignore_metadata_errors=True)
        except Exception as error:  # of YAML, or of the hub client
            raise InputError(
                f"the README.md of the repository begins with settings that cannot be read ({type(error).__name__}): "
                "mend or delete it on the hub"
            ) from None
        front, rest = found.data.to_dict(), found.text
    elif before is not None:
        rest = before
    for key, value in said.items():
        there = front.get(key)
        if isinstance(value, list):
            there = there if isinstance(there, list) else [] if there is None else [there]
            front[key] = list(dict.fromkeys([*there, *value]))
        else:
            front[key] = value
    head, begun, tail = rest.partition(_BEGIN)
    _, ended, tail = tail.partition(_END)
    if begun and ended:
        body = f"{head.strip()}\n\n{ours}\n\n{tail.strip()}".strip()
    else:
        body = f"{ours}\n\n{rest.strip()}".strip()
    return f"---\n{ModelCardData(**front).to_yaml()}\n---\n\n{body}\n"
