"""The application's Flask extensions; `init_extensions` binds them to an app."""

from __future__ import annotations

import logging
import time
from hashlib import blake2s
from pathlib import Path

from flask import Flask, Response
from flask_limiter import RateLimitExceeded
from flask_limiter.util import get_remote_address
from werkzeug.middleware.proxy_fix import ProxyFix

from arus import ReliableSync
from arus.database import database_file, is_sqlite

from .api import api
from .assets import init_assets
from .database import db, init_database
from .hosts import init_hosts
from .metrics import init_metrics
from .migrations import init_migrations
from .rate_limits import CountedLimits, SqliteStorage, too_many

__all__ = ["api", "db", "init_extensions", "limiter", "sync"]


def _in_one_line(record: logging.LogRecord) -> bool:
    if record.exc_info:
        record.msg = f"{record.msg}: {record.exc_info[1]}"
        record.exc_info = None
    return True


sync = ReliableSync()
# A broken counter file must not make the health endpoint fail.
limiter = CountedLimits(key_func=get_remote_address, swallow_errors=True)
# With a full disk this fails at each request; a traceback each time would fill the log.
limiter.logger.addFilter(_in_one_line)


def init_extensions(app: Flask) -> None:
    """Bind all extensions to `app`; opens nothing."""
    Path(app.instance_path).mkdir(parents=True, exist_ok=True)
    if proxies := app.config["TRUSTED_PROXIES"]:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=proxies, x_prefix=proxies
        )
    # Before what may refuse a request: each request is counted by the same rules.
    init_metrics(app)
    init_hosts(app)
    init_assets(app)
    init_database(app)
    app.config.setdefault("RATELIMIT_STORAGE_URI", SqliteStorage.uri(_counter_file(app)))
    limiter.init_app(app)
    app.register_error_handler(RateLimitExceeded, _too_many)
    sync.init_app(app, db, zone=app.config["SHIP_TIMEZONE"])
    init_migrations(app, db)
    api.init_app(app)


def _too_many(error: RateLimitExceeded) -> Response:
    current = limiter.current_limit
    return too_many(error.description, current.reset_at - time.time() if current else 1)


def _counter_file(app: Flask) -> Path:
    """Return the file of the rate limits: next to a SQLite database, otherwise in the instance folder."""
    with app.app_context():
        url = db.engine.url  # with a relative path made absolute
    if is_sqlite(url):
        database = database_file(url) or Path(app.instance_path, str(url.database)).resolve()
        return database.with_name(f"{database.name}-limits")
    name = blake2s(app.config["DATABASE_URL"].encode(), digest_size=6).hexdigest()
    return Path(app.instance_path, f"limits-{name}.sqlite")
