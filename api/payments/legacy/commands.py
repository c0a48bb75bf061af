"""`payments import` and `payments verify`: what the operator asks for, and sees."""

import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg
import click

from payments.command import on_database
from payments.legacy.screen import print_survey
from payments.legacy.survey import (
    CHOOSE,
    FIELDS,
    STATUSES,
    Options,
    SourceError,
    Survey,
    command,
    label,
    printable,
    read_name,
    written,
)
from payments.upkeep import echo

if TYPE_CHECKING:
    from payments.legacy.importer import Comparison, Difference, Plan

DEFAULT_REPORT = "import-report.csv"

# Set by `make import`: the proposed command is then one for make.
MAKE = "IMPORT_BY_MAKE"


def _column(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, str]:
    columns: dict[str, str] = {}
    for text in given:
        field, _, name = text.partition("=")
        if field not in FIELDS or not name:
            raise click.BadParameter(f"{text!r} is not FIELD=NAME, with {' or '.join(FIELDS)}")
        _put(columns, field, _name(name))
    if len(set(columns.values())) < len(columns):
        raise click.BadParameter("two fields cannot come from one column")
    return columns


def _status(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, str]:
    statuses: dict[str, str] = {}
    for text in given:
        old, _, status = text.rpartition("=")
        if status not in STATUSES or not old:
            raise click.BadParameter(f"{text!r} is not OLD=inserted or OLD=consumed")
        name = label(_name(old)) if old.startswith('"') else old
        if name is None or name in STATUSES:
            raise click.BadParameter(f"{text!r} does not name a status of the old system's own")
        _put(statuses, name, status)
    return statuses


def _ignored(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...]:
    return tuple(_name(text) for text in given)


def _name(text: str) -> str:
    try:
        return read_name(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} begins with a quote, and is no JSON string") from None


def _put(pairs: dict[str, str], name: str, value: str) -> None:
    if pairs.setdefault(name, value) != value:
        raise click.BadParameter(f"{name!r} is given twice: {pairs[name]!r} and {value!r}")


# In the opposite order of the help.
SOURCE_OPTIONS = (
    click.option("--allow-empty", is_flag=True, help="Go on although the source has no payments."),
    click.option(
        "--follow-pages",
        is_flag=True,
        help="Ask an address for all its pages, as their `Link` headers name them.",
    ),
    click.option(
        "--payment-in-cents",
        is_flag=True,
        help="The source counts in cents: 1250 becomes 12.50.",
    ),
    click.option(
        "--without-payment",
        is_flag=True,
        help="The source has no values: payments get null, and values are not compared.",
    ),
    click.option(
        "--ignore",
        "ignored",
        multiple=True,
        metavar="NAME",
        callback=_ignored,
        help="A column or field to leave behind; give it once for each.",
    ),
    click.option(
        "--status",
        "statuses",
        multiple=True,
        metavar="OLD=STATUS",
        callback=_status,
        help="What a status of the old system becomes, such as done=consumed or"
        " null=inserted; give it once for each.",
    ),
    click.option(
        "--column",
        "columns",
        multiple=True,
        metavar="FIELD=NAME",
        callback=_column,
        help="The column or field that becomes id, status, payment or data, such as"
        " payment=amount; give it once for each.",
    ),
    click.option(
        "--table",
        help="The table of a SQLite file. By default payment, payments, or the only one that"
        " has id and status.",
    ),
    click.option(
        "--from",
        "name",
        required=True,
        metavar="SOURCE",
        help="A SQLite file, the address of the old system's /list, a file with its answer, or"
        " - for standard input.",
    ),
)


def _source_options(function: Callable[..., None]) -> Callable[..., None]:
    """Gives a command `name`, `options` and `allow_empty`."""

    @wraps(function)
    def with_options(
        *,
        ignored: tuple[str, ...],
        table: str | None,
        columns: dict[str, str],
        statuses: dict[str, str],
        without_payment: bool,
        payment_in_cents: bool,
        follow_pages: bool,
        **others: Any,
    ) -> None:
        options = Options(
            table, columns, statuses, ignored, without_payment, payment_in_cents, follow_pages
        )
        function(options=options, **others)

    for option in SOURCE_OPTIONS:
        with_options = option(with_options)
    return with_options


@click.command("import")
@_source_options
@click.option("--dry-run", is_flag=True, help="Print what would be done, and change nothing.")
@click.option(
    "--take-the-rest",
    is_flag=True,
    help="Import although some rows cannot be imported, and leave these out.",
)
@click.option(
    "--take-back",
    type=click.IntRange(0),
    metavar="N",
    help="Also follow the old system where it took payments back, if they are at most N.",
)
@click.option(
    "--report",
    "report_name",
    metavar="FILE",
    default=DEFAULT_REPORT,
    show_default=True,
    help="Where each row that is left out is written, with the reason; - is standard output.",
)
def import_command(
    *,
    name: str,
    options: Options,
    allow_empty: bool,
    dry_run: bool,
    take_the_rest: bool,
    take_back: int | None,
    report_name: str,
) -> None:
    """Import the old system's payments, with their ids.

    Prints what the source holds, what becomes of it, and what is missing: for a source that
    cannot be imported as it is, the command that imports it.

    Safe to run again, also after it was cut off: payments that are here already stay, and those
    that are new or consumed in the old system since are brought. Payments that were created or
    changed here are never overwritten. If any row cannot be imported, none is, unless
    --take-the-rest is given. Where the old system took a payment back (it is gone, has another
    payment under its id, or is inserted again), this counts as such a row, unless --take-back is
    given: a payment that is gone is then deleted.

    For an address that needs an Authorization header, its value is taken from the environment
    variable IMPORT_AUTHORIZATION.

    \b
    payments import --from old.sqlite3 --dry-run
    payments import --from old.sqlite3 --column payment=amount --status done=consumed
    payments import --from https://old.example.com/list
    """
    from payments.legacy.importer import ImportFailed
    from payments.legacy.report import ReportError

    asked = _Asked(name, options, allow_empty, dry_run, take_the_rest, take_back, report_name)
    with _failures(ImportFailed, SourceError, ReportError):
        on_database(lambda connection: _import(connection, asked))


class _Asked(NamedTuple):
    """What the command line of an import says."""

    name: str
    options: Options
    allow_empty: bool
    dry_run: bool
    take_the_rest: bool
    take_back: int | None
    report_name: str

    @property
    def back(self) -> bool:
        """Whether to follow the old system where it took payments back."""
        return self.take_back is not None

    def words(self) -> list[str]:
        """Returns the options as the command line has them, without the source."""
        options = self.options
        words = ["--table", options.table] if options.table else []
        for field, name in options.columns.items():
            words += ["--column", f"{field}={written(name)}"]
        for name, status in options.statuses.items():
            words += ["--status", f"{name}={status}"]
        for name in options.ignored:
            words += ["--ignore", written(name)]
        if self.report_name != DEFAULT_REPORT and MAKE not in os.environ:
            words += ["--report", self.report_name]
        if self.take_back is not None:
            words += ["--take-back", str(self.take_back)]
        flags = {
            "--without-payment": options.without_payment,
            "--payment-in-cents": options.payment_in_cents,
            "--follow-pages": options.follow_pages,
        }
        return [*words, *(flag for flag, is_set in flags.items() if is_set)]


async def _import(connection: asyncpg.Connection, asked: _Asked) -> None:
    from payments.legacy import importer
    from payments.legacy.report import Report
    from payments.legacy.source import open_source

    source = open_source(asked.name, asked.options)
    with closing(Report(asked.report_name, asked.name)) as report:
        plan = await importer.plan(connection, source)
        survey = source.survey
        print_survey(survey, plan, asked.options)
        _refuse(survey, asked.options, asked.allow_empty)
        # A dry run lists what would be taken back as well: it is there to be read.
        listed = asked.back and not asked.dry_run
        first = await importer.write_report(connection, report, take_back=listed)
    left_out = plan.kept + (0 if asked.back else plan.back)
    echo()
    for verdict, count in sorted(plan.counts.items()):
        echo(f"{count:>12,} {verdict}")
    if plan.back:
        echo(f"{plan.back:>12,} taken back by the old system in all")
    _print_differences(first, err=True)
    if left_out:
        echo(f"{left_out:,} rows cannot be imported; {asked.report_name} lists them", err=True)
    if reason := next(_reasons_to_stop(survey, plan, asked, left_out), None):
        _propose(survey, plan, asked)
        raise importer.ImportFailed(f"nothing was imported: {reason}")
    to_do = plan.forward + (plan.back if asked.back else 0)
    besides = f"; {left_out:,} rows are left out" if left_out else ""
    if not to_do:
        echo(f"Nothing to do{besides}.")
    elif asked.dry_run:
        echo(f"{to_do:,} payments would be imported or changed{besides}.")
    else:
        await importer.carry_out(connection, plan, take_back=asked.back)
        echo(f"{to_do:,} payments imported or changed{besides}.")


def _reasons_to_stop(survey: Survey, plan: "Plan", asked: _Asked, left_out: int) -> Iterator[str]:
    """Gives why the import must not go on; the first of several is the cause of the others."""
    if survey.layout_options() or (survey.status_options() and not asked.take_the_rest):
        yield "the source needs more options"
    if survey.rows and plan.found["refused"] == survey.rows:
        yield "no row of the source can be imported"
    if asked.take_back is not None and plan.back > asked.take_back:
        yield (
            f"the old system took back {plan.back:,} payments, more than --take-back"
            f" {asked.take_back}; is it the right source?"
        )
    if asked.back and plan.counts.get("gone") and plan.found["without_id"]:
        yield (
            f"{plan.found['without_id']:,} rows have no id that can be read, so that payments only"
            " seem to be gone; fix these ids first"
        )
    if plan.back and not asked.back and not asked.take_the_rest:
        yield (
            f"the old system took back {plan.back:,} payments; if that is right, follow it with"
            f" --take-back {plan.back}"
            + (f", and --take-the-rest for the other {plan.kept:,} rows" if plan.kept else "")
            + ". To keep them here: --take-the-rest alone"
        )
    if left_out and not asked.take_the_rest:
        yield "fix these rows in a copy of the source, or leave them out with --take-the-rest"


@click.command("verify")
@_source_options
@click.option(
    "--take-the-rest",
    is_flag=True,
    help="Count what the import leaves out as no difference: rows that cannot be imported, and"
    " payments that were created or changed here.",
)
@click.option(
    "--show", type=click.IntRange(0), default=10, show_default=True, help="Differences to list."
)
def verify_command(
    *, name: str, options: Options, allow_empty: bool, take_the_rest: bool, show: int
) -> None:
    """Compare the old system's payments with those here, row by row; exit with 1 if any differs.

    The last line says what was compared: a source that has no `data`, say, cannot differ in it.
    Takes the options of the import that say what the source holds.

    \b
    payments verify --from old.sqlite3
    """
    from payments.legacy import importer
    from payments.legacy.source import open_source

    async def work(connection: asyncpg.Connection) -> "tuple[Survey, Comparison]":
        source = open_source(name, options)
        compared = await importer.verify(connection, source, show, take_the_rest=take_the_rest)
        return source.survey, compared

    with _failures(SourceError):
        survey, compared = on_database(work)
        for warning in survey.warnings:
            echo(f"Warning: {warning}.", err=True)
        _refuse(survey, options, allow_empty)
        if missing := survey.layout_options():
            raise SourceError(
                f"{survey.where} needs more options to be compared: {command(missing)}"
            )
    echo(f"{'':<10}{'old':>22}{'here':>22}")
    for what, old in compared.old.items():
        here = compared.new[what]
        differs = "  differs" if old is not None and old != here else ""
        echo(f"{what:<10}{_cell(old):>22}{_cell(here):>22}{differs}")
    _print_differences(compared.first, err=False)
    if not compared.equal:
        raise click.ClickException(f"{compared.differences:,} payments differ")
    besides = f" {compared.excepted:,} rows are left out." if compared.excepted else ""
    echo(_no_difference(survey) + besides)


def _no_difference(survey: Survey) -> str:
    compared = [field for field in FIELDS if field in survey.columns]
    if not survey.rows:
        return "No difference: there is no payment on either side."
    if len(compared) == len(FIELDS):
        return "No difference."
    others = " and ".join(field for field in FIELDS if field not in survey.columns)
    return f"No difference in {' and '.join(compared)}; the source has no {others} to compare."


def _refuse(survey: Survey, options: Options, allow_empty: bool) -> None:
    """Refuses a source that the options cannot be meant for."""
    if options.without_payment and "payment" in survey.columns:
        raise SourceError(f"{survey.where} has payments: leave out --without-payment")
    if not survey.rows and not allow_empty:
        raise SourceError(
            f"{survey.where} has no payments, so that nothing was done. If that is right, say"
            " --allow-empty"
        )


def _propose(survey: Survey, plan: "Plan", asked: _Asked) -> None:
    """Prints the command that imports the source, as far as it is known."""
    from payments.legacy.source import printed

    words = [*survey.layout_options(), *survey.status_options()]
    some_are_good = plan.found["faulty"] < survey.rows
    is_decided = asked.back or not plan.back  # or it would keep what the old system took back
    leaves_out = plan.kinds or plan.kept > plan.counts.get("refused", 0)
    if some_are_good and is_decided and leaves_out and not asked.take_the_rest:
        words.append("--take-the-rest")
    if not words or not some_are_good:
        return
    for field, names in survey.rivals.items():
        choice = command([written(name) for name in names]).replace(" ", " or ")
        echo(f"\n{field} could be {choice}: name one with --column, and the others with --ignore.")
    undecided = any(word.endswith(f"={CHOOSE}") for word in words)
    echo(f"\nReplace {CHOOSE}, and this imports it:" if undecided else "\nThis imports it:")
    flags = command([*asked.words(), *words])
    # A secret, or what a terminal cannot show, is not repeated.
    is_shown = printed(asked.name) == asked.name == printable(asked.name)
    if MAKE in os.environ:
        source, flags = (text.replace("$", "$$") for text in (command([asked.name]), flags))
        source = source if is_shown else '"$OLD"'
        echo(f"\n  make import FROM={source} IMPORT_FLAGS={shlex.quote(flags)}\n")
    else:
        source = command([asked.name]) if is_shown else '"$OLD"'
        echo(f"\n  payments import --from {source} {flags}\n")
    if not is_shown:
        echo("OLD stands for the source.")
    if f"payment={CHOOSE}" in words and "payment" not in survey.columns:
        echo("If the source has no values: --without-payment, and --ignore for each other name.")


@contextmanager
def _failures(*kinds: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        raise click.ClickException(str(error)) from None


def _print_differences(differences: Iterable["Difference"], *, err: bool) -> None:
    for number, id, what in differences:
        row = "-" if number is None else number
        echo(f"  row {row}, id {'-' if id is None else id}: {what}", err=err)


def _cell(value: object) -> str:
    if value is None:
        return "not compared"
    return value if isinstance(value, str) else f"{value:,}"
