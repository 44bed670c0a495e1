"""Shell completion: the names are the registries', torch stays out, and a shell that installed it gets them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from biaslab.cli import completion
from biaslab.models import aliases
from biaslab.profiles import ESTIMATORS
from biaslab.pruning import METHODS

ROOT = Path(__file__).parents[2]


def test_names_are_those_of_the_registries():
    """The names are read from the files; what registers in another way would be missing here."""
    assert completion.registered("pruning/methods") == sorted(n for n, c in METHODS.items() if _ours(c))
    assert completion.registered("profiles/estimators") == sorted(n for n, c in ESTIMATORS.items() if _ours(c))
    assert completion.method_names("") == ["none", *completion.registered("pruning/methods")]
    assert completion.estimator_names_or_auto("") == ["auto", *completion.estimator_names("")]
    assert completion.model_names("") == list(aliases())
    assert completion.dataset_names("") == [
        "gallery",
        "gallery-vqa",
        "scenes",
    ]  # refcoco-jsonl needs a path, which --dataset takes in its place


def _ours(cls: type) -> bool:
    return cls.__module__.startswith("biaslab.")


@pytest.mark.parametrize(
    ("complete", "incomplete", "names"),
    [
        (completion.model_names, "grou", ["grounder"]),
        (completion.method_names, "none,div", ["none,divprune"]),
        (completion.method_names, "none,fastv:score=no_rope,fas", ["none,fastv:score=no_rope,fastv"]),
        (completion.method_names, "fastv,fas", []),  # the same method twice is refused
        (completion.estimator_names, "m", ["mean"]),
        (completion.estimator_names, "au", []),
        (completion.dataset_names, "./val", []),
    ],
)
def test_what_is_offered_starts_as_what_was_typed(complete, incomplete, names):
    assert complete(incomplete) == names


SCRIPT = """
import sys
sys.argv[0] = "biaslab"
from biaslab.cli import main
try:
    main([])
finally:
    heavy = {"torch", "transformers", "sklearn"} & set(sys.modules)
    assert not heavy, heavy
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("fit-bias --model internvl3-1", {"internvl3-1b", "internvl3-14b"}),
        ("evaluate -m grou", {"grounder"}),
        ("prune --methods none,fa", {"none,fastv"}),
        ("bench --methods d2", {"d2pruner"}),
        ("fit-bias --estimator a", {"auto"}),
        ("inspect --estimator t", {"tile"}),
        ("evaluate --dataset s", {"scenes"}),
        ("eval", {"evaluate"}),
    ],
)
def test_a_shell_gets_names_without_torch(words, offered):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "_BIASLAB_COMPLETE": "complete_bash",
        "COMP_WORDS": f"biaslab {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert set(done.stdout.split()) == offered


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_install_completion_makes_bash_complete(tmp_path):
    program = tmp_path / "bin" / "biaslab"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom biaslab.cli import main\nmain()\n")
    program.chmod(0o755)
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": f"{program.parent}:{os.environ['PATH']}",
    }  # fmt: skip
    script = """
        biaslab --install-completion || exit 1
        source ~/.bashrc
        COMP_WORDS=(biaslab fit-bias --estimator geo) COMP_CWORD=3
        $(complete -p biaslab | sed 's/.*-F \\([^ ]*\\).*/\\1/') biaslab
        echo "offered: ${COMPREPLY[*]}"
    """
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bash completion installed" in done.stdout and "offered: geometric" in done.stdout
