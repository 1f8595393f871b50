"""The peer of the follower, in a separate process: stock paho-mqtt and psycopg, and nothing that a follower guarantees.

`python -m bench.follow_paho DATABASE BROKER_URL TOTAL` receives TOTAL changes, upserts them in batches of
500 and prints JSON: seconds and CPU seconds from CONNECT to the last commit.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any
from urllib.parse import urlsplit

import orjson
import psycopg
from paho.mqtt.client import CallbackAPIVersion, Client, MQTTMessage, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from psycopg.types.json import JsonDumper, set_json_dumps
from sqlalchemy import make_url

CLIENT_ID = "arus_follow_peer"
PREFIX = "vessel/sync"
BATCH = 500
_COMMON = {"id": "id", "version": "version", "created_at": "createdAt", "updated_at": "updatedAt"}
#: Columns by table, which is the topic too, and the keys of their values in messages.
TABLES = {
    "equipment": {
        **_COMMON, "name": "name", "type": "type", "manufacturer": "manufacturer", "model": "model",
        "serial_number": "serialNumber", "location": "location", "is_active": "isActive",
        "criticality_level": "criticalityLevel", "specifications": "specifications",
    },
    "work_orders": {
        **_COMMON, "wo_number": "woNumber", "equipment_id": "equipmentId", "reason": "reason",
        "description": "description", "status": "status", "priority": "priority",
        "maintenance_type": "maintenanceType", "assigned_crew_id": "assignedCrewId",
        "estimated_hours": "estimatedHours", "actual_hours": "actualHours",
        "planned_start_date": "plannedStartDate", "planned_end_date": "plannedEndDate", "schedule_id": "scheduleId",
    },
    "alerts": {
        **_COMMON, "equipment_id": "equipmentId", "sensor_type": "sensorType", "alert_type": "alertType",
        "message": "message", "value": "value", "threshold": "threshold", "acknowledged": "acknowledged",
        "acknowledged_at": "acknowledgedAt", "acknowledged_by": "acknowledgedBy",
    },
}  # fmt: skip


def _upsert(table: str) -> str:
    columns = TABLES[table]
    return (
        f"INSERT INTO {table} ({', '.join(columns)})"
        f" VALUES ({', '.join(f'%({key})s' for key in columns.values())}) ON CONFLICT (id) DO UPDATE SET "
        + ", ".join(f"{name} = excluded.{name}" for name in columns if name != "id")
        + f" WHERE {table}.version < excluded.version"
    )


UPSERTS = {table: _upsert(table) for table in TABLES}


def subscriber(broker_url: str) -> Client:
    """Return a client with a durable session, connected to the broker."""
    client = Client(CallbackAPIVersion.VERSION2, CLIENT_ID, protocol=MQTTProtocolVersion.MQTTv5)
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 0xFFFFFFFF
    properties.ReceiveMaximum = 2000
    port = urlsplit(broker_url).port or 1883
    client.connect("127.0.0.1", port, clean_start=False, properties=properties)
    return client


def run(database: str, broker_url: str, total: int) -> dict[str, Any]:
    """Apply all messages and measure it."""
    url = make_url(database)
    rows: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
    waiting = applied = 0

    def on_message(_client: Client, _data: object, message: MQTTMessage) -> None:
        nonlocal waiting
        change = orjson.loads(message.payload)
        rows[change["entity"]].append(change["data"])
        waiting += 1

    set_json_dumps(orjson.dumps)
    with psycopg.connect(
        host=url.host, port=url.port, user=url.username, dbname=url.database, autocommit=False
    ) as connection:
        connection.adapters.register_dumper(dict, JsonDumper)
        connection.execute("SET session_replication_role = replica")
        connection.commit()
        began, cpu = time.perf_counter(), time.process_time()
        client = subscriber(broker_url)
        client.on_message = on_message
        while applied < total:
            client.loop(0.25)
            if waiting >= BATCH or applied + waiting >= total:
                with connection.cursor() as cursor:
                    for table, upsert in UPSERTS.items():
                        cursor.executemany(upsert, rows[table])
                        rows[table].clear()
                connection.commit()
                applied += waiting
                waiting = 0
        result = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
    client.disconnect()
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.follow_paho")
    parser.add_argument("database")
    parser.add_argument("broker_url")
    parser.add_argument("total", type=int)
    print(json.dumps(run(**vars(parser.parse_args()))))
