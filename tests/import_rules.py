"""The import rule between rooms, for import-linter: what another room needs comes from a room's `__init__`."""

import ast
from pathlib import Path

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class RoomsContract(Contract):
    """A module of one room imports another room, or a module that the other room lists in its `__all__`; nothing else of it.

    A room is a folder below the package's own. A room's `__init__` may import from the rooms inside it.
    """

    root = fields.StringField()

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        root = str(self.root)
        rooms = {
            ".".join(path.parent.parts[path.parent.parts.index(root) :]): _listed(path)
            for path in Path(root).rglob("__init__.py")
        }
        private = [
            (importer, imported)
            for importer in sorted(graph.modules)
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if imported.startswith(f"{root}.") and not _public(importer, imported, rooms)
        ]
        return ContractCheck(kept=not private, metadata={"private": private})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for importer, imported in check.metadata["private"]:
            room, _, name = imported.rpartition(".")
            output.print_error(f"{importer} imports {imported}: import it from {room}, which must list it, or {name}")


def _public(importer: str, imported: str, rooms: dict[str, list[str]]) -> bool:
    if imported in rooms or imported.count(".") == 1:
        return True
    room, _, name = imported.rpartition(".")
    inside = importer.rpartition(".")[0] == room or importer == room
    return inside or name in rooms[room] or (importer in rooms and imported.startswith(f"{importer}."))


def _listed(init: Path) -> list[str]:
    """What a package lists in `__all__`."""
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            return [str(name) for name in ast.literal_eval(node.value)]
    return []
