"""`flask user` and `flask token`."""

from __future__ import annotations

import re
from datetime import timedelta

import click
from flask import Blueprint
from flask.cli import AppGroup

from extensions.api import InvalidError
from extensions.database import utcnow

from . import people, tokens
from .models import User
from .rights import ROLES, SCOPES

users = AppGroup("user", help="People who log in (ACCESS=login).")
token_group = AppGroup("token", help="Tokens of programs (ACCESS=login).")


def add_commands(blueprint: Blueprint) -> None:
    """Add both groups to an application with the blueprint."""
    blueprint.cli.add_command(users)
    blueprint.cli.add_command(token_group)


@users.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(list(ROLES)), default="crew", show_default=True)
@click.password_option(help="Asked for when not given.")
def add_user(name: str, role: str, password: str) -> None:
    """Add a person, for example: flask user add "Ada Lovelace" --role engineer."""
    with _Told():
        user = people.add(name, role, password)
    click.echo(f"{user.name} was added: {user.role}")


@users.command("list")
def list_users() -> None:
    """List all people."""
    for user in people.everybody():
        seen = user.seen_at.isoformat(timespec="seconds") if user.seen_at else "never"
        state = "disabled" if user.disabled else "enabled"
        click.echo(f"{user.name}  {user.role}  {state}  last seen {seen}")


@users.command("disable")
@click.argument("name")
@click.option("--enable", is_flag=True, help="Let the person in again.")
def disable_user(name: str, enable: bool) -> None:
    """Lock a person out, and end the sessions."""
    with _Told():
        people.disable(_person(name), disabled=not enable)
    click.echo(f"{name} is {'enabled' if enable else 'disabled'}")


@users.command("password")
@click.argument("name")
@click.password_option(help="Asked for when not given.")
def set_password(name: str, password: str) -> None:
    """Set a password, and end the sessions."""
    with _Told():
        people.change_password(_person(name), password)
    click.echo(f"the password of {name} was changed")


@token_group.command("add")
@click.argument("name")
@click.option("--scope", "scopes", type=click.Choice(list(SCOPES)), multiple=True, required=True)
@click.option("--expires", help="After so many days, such as 90d.")
def add_token(name: str, scopes: tuple[str, ...], expires: str | None) -> None:
    """Issue a token and print it: it is shown this once."""
    days = re.fullmatch(r"([1-9][0-9]{0,3})d?", expires or "1")
    if days is None:
        raise click.BadParameter(
            "a number of days is expected, such as 90d", param_hint="--expires"
        )
    end = utcnow() + timedelta(days=int(days[1])) if expires else None
    with _Told():
        _token, text = tokens.issue(name, scopes, "command", end)
    click.echo(text)


@token_group.command("list")
def list_tokens() -> None:
    """List all tokens."""
    for token in tokens.every():
        used = token.used_at.isoformat(timespec="seconds") if token.used_at else "never"
        ends = token.expires_at.date().isoformat() if token.expires_at else "never"
        state = "valid" if token.is_valid else "revoked" if token.revoked_at else "expired"
        click.echo(
            f"{token.id}  {token.name}  {token.scopes}  {state}  expires {ends}  last used {used}"
        )


@token_group.command("revoke")
@click.argument("token")
def revoke_token(token: str) -> None:
    """Revoke a token, given by its id or its name."""
    found = tokens.find(token)
    if found is None:
        raise click.ClickException(f"no token, or more than one, is called {token}")
    tokens.revoke(found)
    click.echo(f"{found.name} was revoked")


def _person(name: str) -> User:
    user = people.find(name)
    if user is None:
        raise click.ClickException(f"there is nobody called {name}")
    return user


class _Told:
    """Turns what is not accepted into one line."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, InvalidError):
            texts = [text for messages in (error.errors or {}).values() for text in messages]
            raise click.ClickException(" ".join(texts)) from None
