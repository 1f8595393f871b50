"""A fishing vessel's catch log: one synchronised model, and the sync page for the skipper.

flask --app examples.catch_log.app init-db
gunicorn examples.catch_log.app:app
"""

from __future__ import annotations

import os
from typing import Any
from uuid import uuid4

from flask import Flask, redirect, render_template, request, session, url_for
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields, validate
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from arus import ReliableSync
from arus.web import Action, sync_api, sync_page


class Base(DeclarativeBase):
    """Base class of the models."""


db = SQLAlchemy(model_class=Base)
sync = ReliableSync()


class Haul(Base):
    """The catch of one haul of the net."""

    __tablename__ = "haul"
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: str(uuid4()))
    version: Mapped[int] = mapped_column()
    species: Mapped[str]
    kilograms: Mapped[float]
    __mapper_args__ = {"version_id_col": version}


class HaulSchema(Schema):
    """A haul as entered and sent ashore."""

    id = fields.String(dump_only=True)
    version = fields.Integer(dump_only=True)
    species = fields.String(required=True, validate=validate.Length(1, 80))
    kilograms = fields.Float(required=True, validate=validate.Range(0, 100_000))


sync.register(Haul, "hauls", schema=HaulSchema)


def is_skipper(_action: Action) -> Any:
    """The access rule of the sync page: the crew is refused, a stranger is redirected to the login page."""
    return session["role"] == "skipper" if "role" in session else redirect(url_for("door"))


def create_app() -> Flask:
    """Return the application, configured by the environment."""
    app = Flask(__name__)
    app.config["SECRET_KEY"] = os.environ["SECRET_KEY"]
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
    db.init_app(app)
    sync.init_app(app, db)
    app.register_blueprint(sync_page(base="sync.html", allow=is_skipper), url_prefix="/bridge/link")
    app.register_blueprint(sync_api(allow=is_skipper), url_prefix="/bridge/api")
    app.cli.command("init-db")(db.create_all)
    app.add_url_rule("/", view_func=log)
    app.add_url_rule("/hauls", view_func=write_down, methods=["POST"])
    app.add_url_rule("/door", view_func=door, methods=["GET", "POST"])
    return app


def log() -> Any:
    """Show the log, the newest haul last."""
    return render_template("log.html", hauls=db.session.scalars(db.select(Haul)).all())


def write_down() -> Any:
    """Store a haul; the commit is all that is needed to send it ashore."""
    if errors := (schema := HaulSchema()).validate(request.form):
        return errors, 422
    db.session.add(Haul(**schema.load(request.form)))
    db.session.commit()
    return redirect(url_for("log"), 303)


def door() -> Any:
    """The login page; a real application asks for a password."""
    if request.method == "POST":
        session["role"] = request.form["role"]
        return redirect(url_for("log"), 303)
    return render_template("door.html")


app = create_app()
