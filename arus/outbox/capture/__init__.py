"""Capture: each committed change of a registered row becomes one entry of the change log.

The entry is written in the transaction that changed the row, at its very end, so that both are committed
or neither. By then the statement that changes the row has run and holds the row's lock, so the entries of a row
are in the order of its changes. A row that is changed several times in a transaction gets one entry: its net change.

=================  =================================================================================
`actors`           who makes the changes: asks the application, once in a transaction
`engines`          the engines whose changes are captured, and the sessions that use them
`connections`      the connections of these engines, which tell of each statement that they execute
`flush`            which rows a flush of the ORM changes
`plugins`          SQLAlchemy's classes for the ORM's bulk statements, which tell of each
`bulk`             which rows the ORM's bulk statements change
`statements`       which rows other statements of SQLAlchemy change, and SQL texts that can't be captured
`inserts`          the keys of rows that such a statement inserts
`affected`         rows that such a statement changes, read before and after it
`cascades`         rows that the database deletes or changes along with others
`tables`           the tables of the registered models, and those whose deletions reach them
`versions`         raises versions that nothing else raises
`textual`          which tables a SQL text writes to
`uncaptured`       reports and counts what can't be captured
`recorded`         a change made without the ORM, reported by `sync.record`
`logged`           what the log last said of rows
`stored`           values that a database returns in another form than they were given
`refreshed`        what others have changed in rows whose objects a flush has updated
`pending`          the net change of each row, by transaction and savepoint
`writer`           writes the entries of these changes
`transactions`     when entries are written: at the commit, respecting savepoints and rollbacks
`internals`        the private attributes of SQLAlchemy that are used
=================  =================================================================================
"""

from .actors import FindActor
from .engines import Sink
from .internals import check_database_library
from .listener import Capture
from .versions import CAPTURED
from .writer import log_change, receipt_of

__all__ = [
    "CAPTURED",
    "Capture",
    "FindActor",
    "Sink",
    "check_database_library",
    "log_change",
    "receipt_of",
]
