"""What a source of old payments holds, and what the operator still has to say about it."""

import json
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple, get_args

from payments import models

STATUSES = frozenset(get_args(models.Status))
FIELDS = ("id", "status", "payment", "data")
NEEDED = ("id", "status")

# Names and statuses of other payment systems. They are only proposed: the operator decides.
COLUMN_PROPOSALS = {
    "id": ("payment_id", "id_payment", "pk", "transaction_id"),
    "status": ("state", "payment_status", "situacao", "estado"),
    "payment": ("amount", "value", "payment_amount", "payment_value", "price", "total", "valor"),
    "data": ("payload", "input", "body", "details", "metadata", "dados"),
}
STATUS_PROPOSALS = {
    "inserted": (
        *("inserted", "null", '""', "new", "created", "open", "pending", "waiting"),
        *("inserido", "inserida", "novo", "criado", "aberto", "pendente"),
    ),
    "consumed": (
        *("consumed", "done", "paid", "complete", "completed", "processed", "settled"),
        *("finished", "succeeded", "consumido", "consumida", "pago", "processado"),
    ),
}
# Columns that mark a row as removed: such a row would come back as a payment.
REMOVAL_NAMES = ("deleted_at", "deleted", "is_deleted", "removed_at", "discarded_at", "archived_at")

CHOOSE = "CHOOSE"  # stands in a proposed option where only the operator knows

LABEL_CHARACTERS = 60
LABELS_LIMIT = 1000  # statuses that are counted one by one; a column of free text has more
STATUSES_LIMIT = 20  # that are proposed one by one; with more, a view is less work
NAMES_LIMIT = 1000


class SourceError(Exception):
    """The old system's payments cannot be read, or not whole; the message says which and why.

    It may quote the old system, whose names and answers can hold what a terminal obeys.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Options(NamedTuple):
    """What the operator says about a source."""

    table: str | None = None
    columns: Mapping[str, str] = {}  # a payment's field -> its name in the source
    statuses: Mapping[str, str] = {}  # a status in the source, as `label` writes it -> status here
    ignored: Collection[str] = ()
    without_payment: bool = False
    payment_in_cents: bool = False
    follow_pages: bool = False


class Survey:
    """What was found: which column becomes which field, and which statuses there are."""

    def __init__(self, options: Options) -> None:
        self.where = ""  # the file or address, and the table
        self.columns: dict[str, str] = {}  # each field that there is -> its name in the source
        self.unknown: list[str] = []
        self.statuses: Counter[str] = Counter()
        self.other_statuses = 0  # rows whose status is too long, or no plain value
        self.texts_of_json = 0  # rows whose `data` is text that looks like JSON
        self.warnings: list[str] = []
        self.rows = 0
        self._options = options
        self._labels: dict[str, str] = {}  # a status as it stands -> as the command line writes it
        self._names: set[str] = set()  # those that are known to have a place, or none

    def meet(self, names: Iterable[str]) -> None:
        """Decides which of these names becomes which field; a name counts in any case.

        Raises:
            SourceError: there are too many names.
        """
        unseen = sorted(set(names) - self._names)
        self._names.update(unseen)
        new = [name for name in unseen if name not in self._options.ignored]
        given = self._options.columns
        for field in sorted(FIELDS, key=lambda field: field not in given):
            if field not in self.columns:
                likely = (given[field],) if field in given else (field, *COLUMN_PROPOSALS[field])
                self._take(field, likely, new)
        placed = self.columns.values()
        self.unknown += [name for name in new if name not in placed]
        if len(self.unknown) > NAMES_LIMIT:
            raise SourceError(f"{self.where} has more than {NAMES_LIMIT} different fields")

    def _take(self, field: str, likely: Iterable[str], names: Iterable[str]) -> None:
        by_case = {name.casefold(): name for name in names}
        for name in likely:
            found = by_case.get(name.casefold())
            if found is not None and found not in self.columns.values():
                self.columns[field] = found
                return

    def check_row(self, names: Collection[str]) -> None:
        """Refuses a row that has a field by another name than earlier rows.

        Raises:
            SourceError: it has.
        """
        for field in (field for field, name in self.columns.items() if name not in names):
            likely = {field, *COLUMN_PROPOSALS[field]}
            for name in names:
                if name.casefold() in likely and name in self.unknown:
                    raise SourceError(
                        f"{self.where}, row {self.rows} has no {self.columns[field]}, but {name}:"
                        " give the field one name in all rows"
                    )

    def check_columns(self) -> None:
        """Refuses a source without a column that the operator named, or that is needed.

        Raises:
            SourceError: there is one.
        """
        names = ", ".join(sorted(self._names))
        for field, name in self._options.columns.items():
            if field not in self.columns:
                raise SourceError(
                    f"{self.where} has no {name}, which --column {field}={name} names; it has"
                    f" {names}"
                )
        for field in NEEDED:
            if field not in self.columns:
                raise SourceError(
                    f"{self.where} has no {field}; it has {names}: say which one it is with"
                    f" --column {field}=NAME"
                )

    def is_new(self, names: Collection[str]) -> bool:
        """Returns whether `meet` does not know all of these names."""
        return not self._names.issuperset(names)

    def status(self, value: object) -> str | None:
        """Counts a status of the source; returns the payment's, or None if it has none."""
        # Nearly all rows have one of few texts.
        if type(value) is str and value in self._labels:
            name = self._labels[value]
        elif (found := label(value)) is None:
            self.other_statuses += 1
            return None
        else:
            name = found
            if name not in self.statuses and len(self.statuses) >= LABELS_LIMIT:
                return self.status_of(name)
            if isinstance(value, str):
                self._labels[value] = name
        self.statuses[name] += 1
        return self.status_of(name)

    @property
    def proposed_columns(self) -> dict[str, str]:
        """The fields that come from a column with another name, which the operator did not give."""
        return {
            field: name
            for field, name in self.columns.items()
            if name.casefold() != field and field not in self._options.columns
        }

    def status_of(self, name: str) -> str | None:
        """Returns what a status of the source becomes, None if no option says so."""
        return self._options.statuses.get(name, name if name in STATUSES else None)

    def layout_options(self) -> list[str]:
        """Returns the options that are missing before the source can be read as payments."""
        if not self._names:
            return []
        words = []
        rivals = self.rivals
        for field in rivals:
            words += ["--column", f"{field}={CHOOSE}"]
        for field, name in self.proposed_columns.items():
            if field not in rivals:
                words += ["--column", f"{field}={written(name)}"]
        lacks_payment = "payment" not in self.columns and not self._options.without_payment
        if lacks_payment and self.unknown:
            # One of the unknown may be it: to propose that all be ignored would lose the values.
            return [*words, "--column", f"payment={CHOOSE}"]
        if lacks_payment:
            words.append("--without-payment")
        undecided = {name for names in rivals.values() for name in names}
        for name in self.unknown:
            if name not in undecided:
                words += ["--ignore", written(name)]
        return words

    @property
    def rivals(self) -> dict[str, list[str]]:
        """The fields that could be read from several columns, of which the operator named none."""
        found = {}
        for field, bound in self.columns.items():
            likely = {field, *COLUMN_PROPOSALS[field]}
            others = [name for name in self.unknown if name.casefold() in likely]
            if others and field not in self._options.columns:
                found[field] = [bound, *others]
        return found

    @property
    def removal_names(self) -> list[str]:
        """The columns that seem to mark removed rows, and that no option names."""
        return [name for name in self.unknown if name.casefold() in REMOVAL_NAMES]

    def unused(self, options: Options) -> dict[str, list[str]]:
        """Returns the names that the operator gave and that are not in the source, by option."""
        unused = {
            "--ignore": [name for name in options.ignored if name not in self._names],
            "--status": [name for name in options.statuses if name not in self.statuses],
        }
        return {option: names for option, names in unused.items() if names}

    def status_option(self, name: str) -> list[str]:
        """Returns the option that says what a status becomes, with the likely answer."""
        return ["--status", f"{name}={propose_status(name) or CHOOSE}"]

    @property
    def missing_statuses(self) -> list[str]:
        """The statuses that become nothing here yet, the most frequent first."""
        names = (name for name, _ in self.statuses.most_common())
        return [name for name in names if self.status_of(name) is None]

    def status_options(self) -> list[str]:
        """Returns the options that are missing for the statuses, unless there are too many."""
        if len(self.missing_statuses) > STATUSES_LIMIT:
            return []
        return [word for name in self.missing_statuses for word in self.status_option(name)]


def propose_status(name: str) -> str | None:
    """Returns what a status, as `label` writes it, most likely means here."""
    plain = name.strip().casefold()
    for status, names in STATUS_PROPOSALS.items():
        if plain in names:
            return status
    return None


def label(value: object) -> str | None:
    """Returns a status as the command line writes it: `null` for null, text as it is, or quoted.

    None stands for what is no plain value, or too long to be a status.
    """
    if isinstance(value, str):
        name = written(value)
    elif value is None or isinstance(value, bool | int | float):
        name = json.dumps(value)
    else:
        return None
    return name if len(name) <= LABEL_CHARACTERS else None


def written(name: str) -> str:
    """Returns a name as the command line writes it: as it is, or as a JSON string."""
    plain = name.isprintable() and name and name != "null" and not name.startswith('"')
    return name if plain else json.dumps(name)


def read_name(text: str) -> str:
    """Returns the name that the command line writes so.

    Raises:
        ValueError: it begins like a JSON string, and is none.
    """
    return str(json.loads(text)) if text.startswith('"') else text


def command(words: Iterable[str]) -> str:
    """Returns the words as a shell reads them, safe to show."""
    return printable(shlex.join(words))


def printable(text: str) -> str:
    """Returns the text as a terminal shows it and does not obey it."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
