"""What a server imports: `gunicorn wsgi:app`, `flask --app wsgi`."""

from app import create_app
from arus.errors import ArusError

try:
    app = create_app()
except ArusError as error:
    # A wrong setting is the operator's to correct: one line, no traceback.
    raise SystemExit(f"arus: {error}") from None
