"""The application factory: the one place that wires settings, extensions and blueprints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask

from blueprints.alerts.routes import blueprint as alerts
from blueprints.common.failures import register_failures
from blueprints.common.origin import refuse_foreign_writes
from blueprints.crew.routes import blueprint as crew
from blueprints.demo.commands import blueprint as demo
from blueprints.docs.routes import blueprint as docs
from blueprints.equipment.routes import blueprint as equipment
from blueprints.health.routes import blueprint as health
from blueprints.maintenance.routes import blueprint as maintenance
from blueprints.sync.catchups import blueprint as catchups
from blueprints.sync.changes import blueprint as changes
from blueprints.sync.routes import blueprint as sync
from blueprints.ui.i18n import init_i18n
from blueprints.ui.routes import blueprint as ui
from blueprints.ui.sync_pages import blueprint as sync_pages
from blueprints.work_orders.routes import blueprint as work_orders
from extensions import api, init_extensions
from extensions.config import load_config
from extensions.logs import configure_logging


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Return the vessel app, configured by `.env`, the environment and `config`, in rising order.

    Opens nothing: no database connection, no broker.

    :raises arus.errors.SettingError: a setting is missing or has a value that is not accepted.
    """
    app = Flask(__name__)
    app.config.update(load_config(config))
    configure_logging()
    init_extensions(app)
    init_i18n(app)
    register_failures(app)
    app.before_request(refuse_foreign_writes)
    for resource in (work_orders, alerts, equipment, crew, maintenance):
        api.register_blueprint(resource)
    for described in (changes, catchups, sync, health):
        api.register_blueprint(described)
    for blueprint in (demo, docs, ui, sync_pages):
        app.register_blueprint(blueprint)
    return app
