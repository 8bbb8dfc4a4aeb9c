"""``query``: SQL over every decision, as a person who may read and change nothing."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from cli.arguments import FINDING, GOOD, MISUSE, add_command, count
from cli.output import print_error, print_lines, print_table, report, say

if TYPE_CHECKING:
    from analytics.queries import SavedQuery
    from cli.arguments import Commands
    from infra.plan import Plan

__all__ = ["register"]

_QUERY = """\
Ask the stack's ClickHouse, as its read-only account:

  ./fraudguard query "SELECT outcome, count() FROM decisions FINAL GROUP BY outcome"
  ./fraudguard query --saved fraud-by-merchant --param limit=5
  ./fraudguard query list

A table may hold a row twice until it is merged: read it with FINAL, or a view (v_decisions_labelled, v_rule_performance,
v_model_quality, v_velocity, v_merchant_risk, v_latency, v_features, v_shadow), which does.
"""
_FORMATS = ("table", "csv", "json", "parquet")


def register(commands: Commands) -> None:
    """Add the command."""
    query = add_command(commands, "query", _query, "SQL over every decision, or a saved query by name", description=_QUERY)
    query.add_argument("sql", nargs="?", help='the statement, "-" to read it from standard input, or the word list: the saved queries')
    query.add_argument("--saved", metavar="NAME", help="a saved query instead")
    query.add_argument("--param", action="append", default=[], type=_parameter, metavar="NAME=VALUE", help="value of {NAME:Type}")
    query.add_argument("--format", choices=_FORMATS, default="table", help="of the rows (default table)")
    query.add_argument("--limit", type=count, default=1_000, metavar="N", help="the first N rows (default 1000)")


def _parameter(text: str) -> tuple[str, str]:
    name, is_given, value = text.partition("=")
    if not is_given or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _query(arguments: argparse.Namespace) -> int:
    from analytics.queries import UnknownQuery, saved_query  # noqa: PLC0415 - help works without any package
    from infra.query import RefusedQuery  # noqa: PLC0415
    from infra.stack import Stack  # noqa: PLC0415

    if (arguments.sql is None) == (arguments.saved is None):
        print_error('give one statement, or --saved NAME; "./fraudguard query list" names the saved ones')
        return MISUSE
    if arguments.sql == "list":
        return _list(arguments)
    parameters = dict(arguments.param)
    try:
        if arguments.saved is None:
            sql = sys.stdin.read() if arguments.sql == "-" else arguments.sql
        else:
            saved = saved_query(arguments.saved)
            sql, parameters = saved.sql, saved.values(parameters)
    except UnknownQuery as error:
        print_error(str(error))
        return MISUSE
    try:
        return _answer(arguments, Stack().plan, sql, parameters)
    except RefusedQuery as error:
        print_error(str(error))
        return FINDING


def _answer(arguments: argparse.Namespace, plan: Plan, sql: str, parameters: dict[str, str]) -> int:
    from infra.query import ask, fetch  # noqa: PLC0415 - help works without any package

    if arguments.format in ("csv", "parquet"):
        content = fetch(plan, sql, parameters, form=arguments.format, limit=arguments.limit)
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return GOOD
    found = ask(plan, sql, parameters, limit=arguments.limit)
    payload = {"columns": list(found.columns), "rows": [list(row) for row in found.rows], "more": found.more}
    report(payload, as_json=arguments.json or arguments.format == "json", people=lambda: print_table(found.columns, found.rows))
    if found.more:
        say(f"only the first {arguments.limit} rows; --limit N gives more")
    return GOOD


def _list(arguments: argparse.Namespace) -> int:
    from analytics.queries import load_queries  # noqa: PLC0415 - help works without any package

    queries = load_queries()
    rows = [(query.name, query.summary, " ".join(_shown(query, name) for name in query.parameters)) for query in queries]
    payload = {"queries": [{"name": one.name, "summary": one.summary, "parameters": list(one.parameters)} for one in queries]}
    report(payload, as_json=arguments.json, people=lambda: print_table(("name", "answers", "parameters"), rows))
    if not arguments.json:
        print_lines(["", "./fraudguard query --saved NAME --param NAME=VALUE"])
    return GOOD


def _shown(query: SavedQuery, name: str) -> str:
    return f"{name}={query.defaults.get(name, '…')}"
