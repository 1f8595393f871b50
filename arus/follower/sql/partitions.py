"""Partitions of vessels: how many there are, which vessel is in which, which process has which."""

from __future__ import annotations

from arus.outbox.sql.build import columns, statement, upsert

from .build import TABLES

PARTITIONING = statement("SELECT name, partitions, version FROM arus_partitioning WHERE id = 1")
SAVE_PARTITIONING = statement(upsert(TABLES.partitioning))
CHANGED = statement("UPDATE arus_partitioning SET version = version + 1 WHERE id = 1")

# -- where the vessels are -------------------------------------------------------------------------

PLACES = statement("SELECT vessel_id, number, status FROM arus_vessel_partition")
#: A vessel stays where it was placed first.
PLACE = statement(
    "INSERT INTO arus_vessel_partition (vessel_id, number, status, placed_at)",
    "VALUES (:vessel_id, :number, :status, :placed_at) ON CONFLICT (vessel_id) DO NOTHING",
)
MOVE = statement(
    "UPDATE arus_vessel_partition SET number = :number WHERE vessel_id = :vessel_id AND number <> :number"
)
REMOVE = statement(
    "DELETE FROM arus_vessel_partition WHERE vessel_id IN :vessel_ids", lists=("vessel_ids",)
)
#: Vessels that the database knows and that are in no partition.
UNPLACED = statement(
    "SELECT v.vessel_id FROM arus_vessel v LEFT JOIN arus_vessel_partition p ON p.vessel_id = v.vessel_id",
    "WHERE p.vessel_id IS NULL",
)
#: Vessels that have proved nothing; `heard_at` is NULL for those that are not followed (any more).
UNPROVEN = statement(
    "SELECT p.vessel_id, p.placed_at, v.heard_at FROM arus_vessel_partition p",
    "LEFT JOIN arus_vessel v ON v.vessel_id = p.vessel_id WHERE v.proven IS NOT TRUE",
)
#: A vessel that is online and was silent for long, if there is one.
SILENT = statement("SELECT 1 FROM arus_vessel WHERE online AND heard_at < :before LIMIT 1")

# -- who holds the partitions ----------------------------------------------------------------------

TAKE = statement(
    "INSERT INTO arus_partition (number, host, pid, since, taken) VALUES (:number, :host, :pid, :since, 1)",
    "ON CONFLICT (number) DO UPDATE SET host = excluded.host, pid = excluded.pid, since = excluded.since,",
    "taken = arus_partition.taken + 1",
)
TAKEN = statement(f"SELECT {columns(TABLES.partition)} FROM arus_partition ORDER BY number")
COUNTS = statement("SELECT number, count(*) AS vessels FROM arus_vessel_partition GROUP BY number")

# -- changing the number of partitions -------------------------------------------------------------

FORGET_TAKEN = statement("DELETE FROM arus_partition WHERE number >= :partitions")
FORGET_PLACES = statement("DELETE FROM arus_vessel_partition")
FORGET_PARTITIONING = statement("DELETE FROM arus_partitioning")
FORGET_LINKS = statement("DELETE FROM arus_follow_link WHERE name IN :names", lists=("names",))
LINK = statement("SELECT 1 FROM arus_follow_link WHERE name = :name")

UNUSED = statement("SELECT client_id FROM arus_unused_session ORDER BY client_id")
ADD_UNUSED = statement(
    "INSERT INTO arus_unused_session (client_id) VALUES (:client_id)",
    "ON CONFLICT (client_id) DO NOTHING",
)
REMOVE_UNUSED = statement(
    "DELETE FROM arus_unused_session WHERE client_id IN :client_ids", lists=("client_ids",)
)
