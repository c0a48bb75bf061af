"""What an import prints about its source: fields, statuses, and rows that cannot be imported."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from payments.legacy.survey import FIELDS, STATUSES_LIMIT, Options, Survey, command, printable
from payments.upkeep import echo

if TYPE_CHECKING:
    from payments.legacy.importer import Plan

WHOLE_ROWS = 10  # fewer amounts can all be whole by chance


def print_survey(survey: Survey, plan: "Plan", options: Options) -> None:
    """Prints what was found, and what becomes of it."""
    echo(f"{printable(survey.where)}: {survey.rows:,} rows read")
    for warning in (*survey.warnings, *_warnings(survey, plan, options)):
        echo(f"Warning: {warning}.", err=True)
    if not survey.rows:
        return
    rows = [("here", "there", "")]
    rows += [(field, *_field(field, survey, plan)) for field in FIELDS]
    rows += [("left out", name, "") for name in survey.unknown]
    _print_table(rows)
    rows = [("status there", "rows", "becomes")]
    for name, count in survey.statuses.most_common(STATUSES_LIMIT):
        becomes = survey.status_of(name) or command(survey.status_option(name))
        rows.append((command([name]), f"{count:,}", becomes))
    if (others := len(survey.statuses) - STATUSES_LIMIT) > 0:
        rows.append((f"and {others:,} more", "", ""))
    if survey.other_statuses:
        rows.append(("no text, or a long one", f"{survey.other_statuses:,}", "cannot be imported"))
    _print_table(rows)
    if plan.kinds:
        rows = [("cannot be imported", "rows", "first row")]
        rows += [(one["kind"], f"{one['rows']:,}", f"{one['first']:,}") for one in plan.kinds]
        _print_table(rows)


def _warnings(survey: Survey, plan: "Plan", options: Options) -> Iterator[str]:
    """Gives what is imported as it stands, and may mean something else."""
    for option, names in survey.unused(options).items():
        yield f"{option} names what the source does not have: {', '.join(names)}"
    for name in survey.removal_names:
        yield (
            f"{name} may mark removed payments, which would be imported like the others: import a"
            " view or a list without them"
        )
    if plan.found["whole"] and plan.found["amounts"] >= WHOLE_ROWS and not options.payment_in_cents:
        yield "all values are whole numbers; if the source counts in cents, say --payment-in-cents"
    if survey.texts_of_json:
        yield f"in {survey.texts_of_json:,} rows `data` is text that looks like JSON; it stays text"
    if len(survey.missing_statuses) > STATUSES_LIMIT:
        yield (
            f"there are {len(survey.missing_statuses):,} statuses without a meaning here: import a"
            " view (--table) or a list whose status is inserted or consumed"
        )


def _field(field: str, survey: Survey, plan: "Plan") -> tuple[str, str]:
    """Returns where a field comes from, and what is known about its values."""
    if field not in survey.columns:
        return "-", {"payment": "null", "data": "{}"}.get(field, "")
    there = survey.columns[field]
    if field != "payment":
        return there, ""
    found = plan.found
    words = [f"{found['amounts']:,} values"]
    if found["amounts"]:
        words.append(f"{found['lowest']:,} to {found['highest']:,}, sum {found['sum']:,}")
    words += [f"{found[what]:,} {what}" for what in ("null", "absent") if found[what]]
    return there, "; ".join(words)


def _print_table(rows: list[tuple[str, str, str]]) -> None:
    shown = [tuple(map(printable, row)) for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in range(2)]
    echo()
    for first, second, third in shown:
        echo(f"  {first:<{widths[0]}}  {second:<{widths[1]}}  {third}".rstrip())
