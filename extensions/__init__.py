"""The extensions of this application, bound to an app by `init_extensions`."""

from __future__ import annotations

import logging
import math
import time
from hashlib import blake2s
from pathlib import Path

from flask import Flask, Response
from flask_limiter import Limiter, RateLimitExceeded
from flask_limiter.util import get_remote_address
from flask_migrate import Migrate
from werkzeug.middleware.proxy_fix import ProxyFix

from arus import ReliableSync
from arus.database import database_file, is_sqlite

from .api import api, problem
from .assets import init_assets
from .config import ROOT
from .database import db, init_database
from .metrics import init_metrics
from .rate_limits import SqliteStorage

__all__ = ["api", "db", "init_extensions", "limiter", "migrate", "sync"]


def _in_one_line(record: logging.LogRecord) -> bool:
    if record.exc_info:
        record.msg = f"{record.msg}: {record.exc_info[1]}"
        record.exc_info = None
    return True


sync = ReliableSync()
# A broken counter file must not take a vessel's health page away.
limiter = Limiter(key_func=get_remote_address, swallow_errors=True)
# A full disk breaks it for each request: twenty lines of traceback would not make room.
limiter.logger.addFilter(_in_one_line)
migrate = Migrate(directory=str(ROOT / "migrations"), render_as_batch=True, compare_type=True)


def init_extensions(app: Flask) -> None:
    """Bind all extensions to `app`; opens nothing."""
    Path(app.instance_path).mkdir(parents=True, exist_ok=True)
    if proxies := app.config["TRUSTED_PROXIES"]:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=proxies, x_prefix=proxies
        )
    init_assets(app)
    init_database(app)
    app.config.setdefault("RATELIMIT_STORAGE_URI", SqliteStorage.uri(_counter_file(app)))
    limiter.init_app(app)
    app.register_error_handler(RateLimitExceeded, _too_many)
    sync.init_app(app, db)
    init_metrics(app)
    migrate.init_app(app, db)
    api.init_app(app)


def _too_many(error: RateLimitExceeded) -> Response:
    current = limiter.current_limit
    wait = math.ceil(current.reset_at - time.time()) if current else 1
    detail = f"No more than {error.description} are answered."
    return problem(429, detail, headers={"Retry-After": str(max(1, wait))})


def _counter_file(app: Flask) -> Path:
    """Return the rate limits' file: beside a SQLite database, one a server database elsewhere."""
    with app.app_context():
        url = db.engine.url  # with the path that a relative one stands for
    if is_sqlite(url):
        database = database_file(url) or Path(app.instance_path, str(url.database)).resolve()
        return database.with_name(f"{database.name}-limits")
    name = blake2s(app.config["DATABASE_URL"].encode(), digest_size=6).hexdigest()
    return Path(app.instance_path, f"limits-{name}.sqlite")
