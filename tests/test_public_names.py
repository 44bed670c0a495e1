"""The public face of the package: light, complete, and the same for type checkers as at run time."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import biaslab as bl

HEAVY = {"numpy", "pandas", "torch", "transformers", "matplotlib", "PIL", "typing"}
SOURCE = ast.parse(Path(bl.__file__).read_text(encoding="utf-8"))


def test_the_import_is_light():
    code = "import sys; before = set(sys.modules); import biaslab; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True,
                            env={"PYTHONPATH": str(Path(bl.__file__).parents[1])}).stdout.split()  # fmt: skip
    assert "biaslab" in loaded and not HEAVY & set(loaded)


def test_names_are_sorted_and_none_is_missing():
    assert bl.__all__ == sorted(bl.__all__) and dir(bl) == sorted(dir(bl))
    assert {"load_dataset", "load_maps", "load_profile", "compare_methods", "calibration"} <= set(bl.__all__)
    for name in dir(bl):
        assert getattr(bl, name) is not None
    with pytest.raises(AttributeError, match="'biaslab' has no attribute 'nothing'"):
        _ = bl.nothing


def test_type_checkers_see_what_the_package_offers_and_where_it_lives():
    block = next(node for node in SOURCE.body if isinstance(node, ast.If))  # if TYPE_CHECKING
    homes = {alias.name: node.module for node in block.body for alias in node.names}
    assert homes.keys() | {"__version__"} == set(dir(bl))
    for name, home in homes.items():
        room = f"biaslab.{bl._ROOMS[name]}".rpartition(".")[0] if name in bl._ROOMS else f"biaslab.{bl._HOME[name]}"
        assert home == room


def test_the_house_has_at_most_22_entries():
    """What is new belongs into a room; a room more takes another's place (`docs/architecture.md`)."""
    assert len([p for p in Path(bl.__file__).parent.iterdir() if p.name != "__pycache__"]) <= 22


def test_no_name_that_a_room_offers_hides_one_of_its_modules():
    """``biaslab.room.name`` is a module or what a module holds, and never one or the other by order of import."""
    hidden = []
    for init in Path(bl.__file__).parent.glob("*/**/__init__.py"):
        modules = {file.stem for file in init.parent.glob("*.py")}
        imports = [n for n in ast.walk(ast.parse(init.read_text(encoding="utf-8"))) if isinstance(n, ast.ImportFrom)]
        names = [alias.asname or alias.name for node in imports for alias in node.names]
        hidden += [f"{init.parent.name}.{name}" for name in names if name in modules]
    assert not hidden
