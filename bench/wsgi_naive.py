"""The vessel app as often written: without a log, and with Flask-MQTT's publish in the request after the commit."""

from __future__ import annotations

import os
from types import SimpleNamespace
from urllib.parse import urlsplit

from flask import Response, request
from flask_mqtt import Mqtt

from app import create_app

app = create_app({"LOCAL_MODE": "false"})
_broker = urlsplit(os.environ["MQTT_BROKER_URL"])
_mqtt = Mqtt()
_mqtt.init_app(
    SimpleNamespace(
        config={
            "MQTT_BROKER_URL": _broker.hostname,
            "MQTT_BROKER_PORT": _broker.port,
            "MQTT_CLIENT_ID": f"naive-{os.getpid()}",
        }
    )
)


@app.after_request
def publish(response: Response) -> Response:
    """Publish the created row."""
    if request.method == "POST" and response.status_code == 201:
        _mqtt.publish("naive/work_orders", response.get_data(), qos=1, retain=True)
    return response
