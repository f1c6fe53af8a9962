"""The layer table in ARCHITECTURE.md is the law for imports inside rainfs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "rainfs"


def layer_table() -> dict[str, set[str]]:
    rows: dict[str, set[str]] = {}
    section = (PACKAGE / "ARCHITECTURE.md").read_text().split("## Layers")[1].split("\n## ")[0]
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 3 and cells[0] not in {"layer", "---"}:
            rows[cells[0]] = {name.strip() for name in cells[2].split(",") if name.strip()}
    return rows


def layer_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "rainfs" and len(parts) > 1 else None


def imported_layers(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
            if node.module == "rainfs":
                names = [f"rainfs.{alias.name}" for alias in node.names]
        found |= {layer for name in names if (layer := layer_of(name)) and layer != "__version__"}
    return found


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_the_table_lists_every_layer_and_nothing_else() -> None:
    present = {layer for p in SOURCES if (layer := p.relative_to(PACKAGE).parts[0])}
    assert {name.removesuffix(".py") for name in present} == set(layer_table())


def test_the_table_has_no_cycle() -> None:
    table = layer_table()
    done: set[str] = set()
    while len(done) < len(table):
        ready = {layer for layer, below in table.items() if layer not in done and below <= done}
        assert ready, f"cycle among {set(table) - done}"
        done |= ready


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = layer_table()[own] | {own}
    assert imported_layers(path) <= allowed


def test_client_and_node_share_only_the_floor() -> None:
    """`array` may use `store` for files of its own host only; nothing of the client sees `node`."""
    for path in SOURCES:
        layers = imported_layers(path)
        relative = path.relative_to(PACKAGE)
        if relative.parts[0] in {"array", "vfs", "mount", "meta", "care"}:
            assert "node" not in layers, relative
        if relative.parts[0] == "array" and "store" in layers:
            assert relative.parts[:2] == ("array", "backends")
            assert relative.stem in {"file", "neighbour"}


def test_only_the_mount_knows_pyfuse3_and_errno_numbers() -> None:
    for path in SOURCES:
        text = path.read_text()
        relative = path.relative_to(PACKAGE)
        if relative.parts[0] != "mount":
            assert "import pyfuse3" not in text, relative
