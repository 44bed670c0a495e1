"""Profiles of the hub: which names are repositories, and the one file that is fetched of them."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biaslab.errors import BiaslabError, InputError

__all__ = ["PROFILE_FILE", "HubName", "fetched"]

logger = logging.getLogger(__name__)
#: name of the profile in its repository, and in a folder downloaded from there
PROFILE_FILE = "profile.safetensors"
_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?")
_TIMEOUT = 10.0  # seconds for the first answer of the hub


@dataclass(frozen=True)
class HubName:
    """A repository of the hub, and which version of it.

    Attributes
    ----------
    repo : str
        ``owner/name``.
    revision : str or None
        Branch, tag or commit; None stands for the main branch.
    """

    repo: str
    revision: str | None = None

    @classmethod
    def read(cls, text: Any, revision: str | None = None) -> HubName | None:
        """Read ``owner/name`` or ``owner/name@revision``; None where it can be no repository.

        Parameters
        ----------
        text : Any
            Text; a path object names a file, never a repository.
        revision : str, optional
            The version, said apart.

        Returns
        -------
        HubName or None

        Raises
        ------
        InputError
            The version is said twice.

        Examples
        --------
        >>> from biaslab.profiles.hub import HubName
        >>> HubName.read("me/internvl2.5-8b-bias@v1")
        HubName(repo='me/internvl2.5-8b-bias', revision='v1')
        >>> HubName.read("runs/bias.safetensors"), HubName.read("/home/me/bias"), HubName.read("bias")
        (None, None, None)
        """
        found = _NAME.fullmatch(text) if isinstance(text, str) and not text.endswith(".safetensors") else None
        if found is None:
            return None
        if revision is not None and found["revision"] is not None:
            raise InputError(f"{text} names a revision, and {revision!r} is one too: say it once")
        return cls(found["repo"], found["revision"] if revision is None else revision)

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def fetched(name: HubName, *, token: str | bool | None = None) -> Path:
    """Return the profile file of a repository: the hub's, or this machine's copy where the hub cannot be reached.

    Parameters
    ----------
    name : HubName
        Repository and revision.
    token : str or bool, optional
        Of the hub; default that of ``hf auth login``.

    Returns
    -------
    Path
        In the cache of the hub client.

    Raises
    ------
    InputError
        No such repository or revision, one that may not be read, or one without a profile.
    BiaslabError
        It is not on this machine, and the hub cannot be reached.
    """
    from huggingface_hub import errors, hf_hub_download

    try:
        how = _asked(name, token)
        return Path(hf_hub_download(name.repo, PROFILE_FILE, revision=name.revision, token=token, **how))
    except errors.GatedRepoError:
        why = f"{name.repo} is gated: ask for access on its page, then run `hf auth login`"
    except errors.RepositoryNotFoundError:
        why = f"no file {name.repo} here, and no such repository on the hub, or a private one: check the name, or run "
        why += "`hf auth login` with an account that may read it"
    except errors.RevisionNotFoundError:
        why = f"{name.repo} has no revision {name.revision!r}: name a branch, a tag or a commit as {name.repo}@main"
    except errors.LocalEntryNotFoundError:  # a kind of EntryNotFoundError
        command = f"hf download {name.repo} {PROFILE_FILE}" + (f" --revision {name.revision}" if name.revision else "")
        raise BiaslabError(
            f"no file {name.repo} here, no copy of a hub repository {name}, and the hub cannot be reached: run "
            f"`{command}` where there is a network, or give a profile file"
        ) from None
    except errors.EntryNotFoundError:
        why = f"the repository {name} holds no {PROFILE_FILE}: name one that a profile was pushed to (`biaslab push`)"
    except errors.HFValidationError as error:
        why = f"{name} can be no repository of the hub ({_first_line(error)}): give owner/name, or a profile file"
    except Exception as error:  # as above
        raise BiaslabError(
            f"the profile of {name} cannot be fetched ({type(error).__name__}: {_first_line(error)}): try again, or "
            "give a profile file"
        ) from None
    raise InputError(why) from None


def _asked(name: HubName, token: str | bool | None) -> dict[str, Any]:
    """Ask the hub for the repository: it answers, or fails, within seconds, while a download would retry for long.

    Returns
    -------
    dict
        How to download: of this machine's copies alone, where nobody answers.
    """
    from huggingface_hub import HfApi, errors

    try:
        HfApi(token=token, library_name="biaslab").model_info(name.repo, revision=name.revision, timeout=_TIMEOUT)
    except (errors.HfHubHTTPError, errors.HFValidationError):  # it has answered, or was not asked
        raise
    except Exception as error:  # of three libraries
        logger.debug("the hub does not answer: %s", error)
        return {"local_files_only": True}
    return {"library_name": "biaslab"}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
