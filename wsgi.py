"""The module for servers to import: `gunicorn wsgi:app`, `flask --app wsgi`."""

import os

from app import create_app
from arus.errors import ArusError

# The database, its lock and its socket are for their user alone.
os.umask(0o077)

try:
    app = create_app()
except ArusError as error:
    # A wrong setting is for the operator to correct: one line, no traceback.
    raise SystemExit(f"arus: {error}") from None
