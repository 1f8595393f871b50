"""The registered models of the application, without its pages and its API: light enough for dozens in a process."""

from __future__ import annotations

from flask import Flask

import blueprints.alerts
import blueprints.crew
import blueprints.equipment
import blueprints.maintenance
import blueprints.work_orders
from extensions import db, sync
from extensions.config import load_config
from extensions.database import init_database

#: The packages that register the models.
MODELS = (
    blueprints.alerts,
    blueprints.crew,
    blueprints.equipment,
    blueprints.maintenance,
    blueprints.work_orders,
)
SECRET_KEY = "for-tests-only-and-long-enough"


def make_app(database_url: str, **settings: str) -> Flask:
    """An application on a migrated database; opens nothing."""
    app = Flask("fleet", instance_relative_config=True)
    app.config.update(
        load_config({"SECRET_KEY": SECRET_KEY, "DATABASE_URL": database_url, **settings})
    )
    init_database(app)
    sync.init_app(app, db)
    return app
