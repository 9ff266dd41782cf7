"""The command line: `agno-docstores provision STORE` creates the tables and indexes of a store, ahead of its use.

Options are the constructor's own connection arguments; credentials are the SDK's business (environment, profile, role)
and no option takes one.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

from agno_docstores.errors import DocstoreError
from agno_docstores.facade import StorePlugin
from agno_docstores.options import TABLE_ARGUMENTS

GROUP = "agno_docstores.stores"
# Objects, and what would put a secret on the command line, where every process of the machine can read it.
_NOT_OPTIONS = frozenset({"self", "options", "db_client", "credentials", "config", "store"})


def plugins() -> dict[str, StorePlugin]:
    """The installed stores by name, as their entry points announce them."""
    return {entry.name: entry.load() for entry in sorted(entry_points(group=GROUP))}


def connection_arguments(plugin: StorePlugin) -> list[str]:
    """The constructor arguments of a store that are text and no secret."""
    parameters = inspect.signature(plugin.sync.__init__).parameters.values()
    return [
        parameter.name
        for parameter in parameters
        if parameter.name not in _NOT_OPTIONS
        and not parameter.name.startswith("aws_")
        and not isinstance(parameter.default, bool | int)
    ]


def build_parser(stores: dict[str, StorePlugin]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="agno-docstores", description="Operate document stores of Agno agents.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("stores", help="list the installed stores")
    provision = commands.add_parser("provision", help="create the tables and indexes of a store, and wait for them")
    by_store = provision.add_subparsers(dest="store", required=True)
    for name, plugin in stores.items():
        one = by_store.add_parser(name, help=f"provision storage for {plugin.sync.__name__}")
        for argument in (*connection_arguments(plugin), *TABLE_ARGUMENTS):
            one.add_argument(f"--{argument.replace('_', '-')}", dest=argument, metavar=argument.upper())
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code: 0 done, 1 the store refused, 2 the command is not understood."""
    stores = plugins()
    chosen = build_parser(stores).parse_args(arguments)
    if chosen.command == "stores":
        for name, plugin in stores.items():
            print(f"{name}: {plugin.sync.__module__}.{plugin.sync.__name__}, {plugin.asynchronous.__name__}")
        return 0
    given = {k: v for k, v in vars(chosen).items() if k not in {"command", "store"} and v is not None}
    try:
        db = stores[chosen.store].sync(**given)
        db._create_all_tables()
        db.close()
    except (DocstoreError, ValueError) as error:
        print(f"agno-docstores: {error}", file=sys.stderr)
        return 1
    print(f"provisioned {db!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
