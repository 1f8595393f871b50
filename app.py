"""The application factory: the one place that wires settings, extensions and blueprints."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from typing import Any

# Babel asks pytz for the machine's zone, and pytz would open the files of all six hundred first.
os.environ.setdefault("PYTZ_SKIPEXISTSCHECK", "1")
# What is imported stays. The garbage collector would traverse it again and again meanwhile, for an eighth of the time.
gc.disable()
try:
    from flask import Flask

    from arus.cli import LoadedLater
    from blueprints.access.guard import init_guard
    from blueprints.access.openapi import describe_access
    from blueprints.access.routes import blueprint as access
    from blueprints.alerts.routes import blueprint as alerts
    from blueprints.common.failures import register_failures
    from blueprints.common.nul import refuse_nul
    from blueprints.common.origin import refuse_foreign_writes
    from blueprints.crew.routes import blueprint as crew
    from blueprints.docs.routes import blueprint as docs
    from blueprints.equipment.routes import blueprint as equipment
    from blueprints.exports.routes import blueprint as exports
    from blueprints.fleet.routes import blueprint as fleet
    from blueprints.health.routes import blueprint as health
    from blueprints.maintenance.routes import blueprint as maintenance
    from blueprints.ui.i18n import init_i18n
    from blueprints.ui.routes import blueprint as ui
    from blueprints.ui.sync_pages import blueprint as sync_pages
    from blueprints.work_orders.routes import blueprint as work_orders
    from extensions import api, init_extensions
    from extensions.config import load_config
    from extensions.logs import configure_logging
    from extensions.sync_api import init_sync_api
finally:
    gc.freeze()
    gc.enable()


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Return the vessel app, configured by `.env`, the environment and `config`; the later overrides the earlier.

    It opens no connection, neither to the database nor to the broker.

    :raises arus.errors.SettingError: a setting is missing or not valid.
    """
    app = Flask(__name__)
    app.config.update(load_config(config))
    configure_logging()
    init_extensions(app)
    init_i18n(app)
    register_failures(app)
    init_guard(app)
    app.before_request(refuse_foreign_writes)
    app.before_request(refuse_nul)
    for resource in (work_orders, alerts, equipment, crew, maintenance, exports):
        api.register_blueprint(resource)
    init_sync_api(app)
    api.register_blueprint(health)
    for blueprint in (access, docs, ui, fleet, sync_pages):
        app.register_blueprint(blueprint)
    app.cli.add_command(LoadedLater("demo", "blueprints.demo.commands", "demo_commands"))
    describe_access(app)
    return app
