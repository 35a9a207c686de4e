"""What setup.py says of the package."""

import ast
import pathlib
import re
import runpy
import sys

import pytest
import setuptools

ROOT = pathlib.Path(__file__).parents[1]
# Modules whose distribution has another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "google": "protobuf",
    "grpc": "grpcio",
    "sklearn": "scikit-learn",
    "tensorflow_serving": "tensorflow-serving-api",
}


@pytest.fixture(scope="module")
def metadata():
    found = {}
    original = setuptools.setup
    setuptools.setup = lambda **arguments: found.update(arguments)
    try:
        runpy.run_path(str(ROOT / "setup.py"))
    finally:
        setuptools.setup = original
    return found


def normal(name):
    return re.sub(r"[-_.]+", "-", re.split(r"[\[=<>~!; ]", name)[0]).lower()


def imported():
    """Top-level modules that the package imports, with a file that does."""
    names = {}
    for folder in ("keras_dml", "zoo", "export"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    modules = [node.module]
                else:
                    continue
                names |= {module.partition(".")[0]: path for module in modules}
    return {name: path for name, path in names.items() if name not in sys.stdlib_module_names}


def test_everything_imported_is_declared(metadata):
    declared = {normal(name) for name in metadata["install_requires"]}
    for extra in ("all", "jax"):
        declared |= {normal(name) for name in metadata["extras_require"][extra]}
    found = imported()
    assert len(found) > 20
    for name, path in found.items():
        if name not in ("keras_dml", "zoo", "export"):
            assert normal(DISTRIBUTIONS.get(name, name)) in declared, path


def test_extras_are_parts_of_all(metadata):
    extras = {name: set(values) for name, values in metadata["extras_require"].items()}
    for name in ("tensorflow", "scann", "tfsim", "tfds", "serve", "hub"):
        assert extras[name] <= extras["all"], name
    card = {"tensorflow", "keras", "tensorflow-similarity", "tensorflow-datasets", "numpy", "scann"}
    assert card <= {normal(name) for name in [*extras["all"], *metadata["install_requires"]]}


def test_versions_in_constraints_are_those_that_setup_allows(metadata):
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    exact = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    exact = {canonicalize_name(name): version for name, version in exact.items()}
    required = [*metadata["install_requires"], *metadata["extras_require"]["all"], *metadata["extras_require"]["dev"]]
    for text in required:
        requirement = Requirement(text)
        assert requirement.specifier.contains(exact[canonicalize_name(requirement.name)]), text


def test_the_typing_marker_is_part_of_each_package(metadata):
    for name in ("keras_dml", "zoo", "export"):
        assert "py.typed" in metadata["package_data"][name]
        assert (ROOT / name / "py.typed").exists()
