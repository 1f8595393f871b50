"""Texts from libraries and services that the pages show, listed here for translation."""

from __future__ import annotations


def mark(text: str) -> str:
    """Return `text`; the call marks it for the collection of texts to translate."""
    return text


#: The values in `{}` are not translated.
FROM_ELSEWHERE: tuple[str, ...] = (
    # blueprints.access
    mark("This name and password do not match, or the account is disabled."),
    mark("There is somebody with this name already."),
    mark("A name has 1 to 80 printable characters."),
    mark("A password has 10 to 200 characters."),
    mark("This password is easy to guess."),
    mark("This is not your password."),
    mark("Nobody else is an administrator."),
    mark("This time has passed."),
    mark("A day is expected, such as 2027-01-31."),
    mark("Only people have a password."),
    mark("There is nobody with this id."),
    mark("{who} may not do this; it needs {rights}."),
    mark("A role is one of crew, engineer, administrator."),
    mark("Engineer"),
    mark("Administrator"),
    mark("Read"),
    mark("Write"),
    mark("Metrics"),
    mark("A token has one or more of read, write, sync, metrics."),
    # marshmallow
    mark("Missing data for required field."),
    mark("Field may not be null."),
    mark("Invalid value."),
    mark("Unknown field."),
    mark("Not a valid string."),
    mark("Not a valid number."),
    mark("Not a valid integer."),
    mark("Not a valid boolean."),
    mark("Not a valid datetime."),
    mark("Not a valid date."),
    mark("Not a valid email address."),
    mark("Not a valid mapping type."),
    mark("Not a valid UUID."),
    mark("Special numeric values (nan or infinity) are not permitted."),
    mark("Number too large."),
    mark("Must be one of: {choices}."),
    mark("Longer than maximum length {max}."),
    mark("Shorter than minimum length {min}."),
    mark("Length must be between {min} and {max}."),
    mark("Must be greater than or equal to {min}."),
    mark("Must be less than or equal to {max}."),
    mark("Must be greater than or equal to {min} and less than or equal to {max}."),
    # this application's fields and services
    mark("Longer than {maximum} characters."),
    mark("Control characters are not accepted."),
    mark("Not an id (a UUID)."),
    mark("Not a valid time: ISO 8601 is expected, like 2026-11-22T08:00:00.000Z."),
    mark("Not between the years 1970 and 2200."),
    mark("Nested deeper than {levels} levels."),
    mark("Larger than {size} bytes as JSON."),
    mark("A text in it has control characters."),
    mark("A number in it is not finite."),
    mark("Read-only: the server sets it."),
    mark("Before plannedStartDate."),
    mark("Not a month, like 2026-11."),
    mark("Not a week, like 2026-W48."),
    mark("Only who may change schedules says that scheduled work is {status}."),
    mark("There is nothing at this address."),
    mark("This server is not known by that name; add it to TRUSTED_HOSTS."),
    mark("A text of the request has a NUL character."),
    mark("Not a cursor of this list."),
    mark("Not one of the choices."),
    mark("The list can't be sorted by this."),
    mark("There is nothing with this id in {entity}."),
    mark("There is no {noun} with this id."),
    mark("There is no such action."),
    mark("There is no such page."),
    mark("There is no such form."),
    mark("The {noun} can't be deleted: other rows refer to it ({counts})."),
    mark("The {noun} was changed since: read it again."),
    mark("The {noun} was changed at the same time: try again."),
    mark("A row that this one refers to was changed at the same time: try again."),
    mark("This request created a {noun} that was deleted since."),
    mark("This {header} was used before, with another body."),
    mark("The schedule has its work order: {order}."),
    mark("The request has fields that are not valid; see errors."),
    mark("The body is larger than {size} bytes."),
    mark("No more than {limit} are answered."),
    mark("The form was not sent from a page of this server."),
    mark("The request was sent by a page of another site."),
    mark("The database is busy: nothing was written; try again."),
    mark("The database is not available: nothing was written; try again later."),
    mark("The database is not migrated: run {command}."),
    # why a change can't be sent, and why the link was lost
    mark("its packet of {size} bytes is larger than the broker takes ({most})"),
    mark("the broker refused it: {reason}"),
    mark("discarded by a person: {reason}"),
    mark("the broker closed the connection"),
    mark("the broker ended the connection: {reason}"),
    mark("the broker did not answer CONNECT in time"),
    mark("the broker closed the connection instead of answering CONNECT"),
    mark("the broker refused the connection: {reason}"),
    mark("{says}; fix: {fix}"),
    # names used in these texts
    mark("work order"),
    mark("alert"),
    mark("piece of equipment"),
    mark("member of the crew"),
    mark("maintenance schedule"),
    # HTTP reason phrases, as titles of error pages
    mark("Bad Request"),
    mark("Forbidden"),
    mark("Not Found"),
    mark("Method Not Allowed"),
    mark("Conflict"),
    mark("Gone"),
    mark("Precondition Failed"),
    mark("Content Too Large"),
    mark("Request Entity Too Large"),
    mark("Misdirected Request"),
    mark("Unsupported Media Type"),
    mark("Unprocessable Content"),
    mark("Unprocessable Entity"),
    mark("Too Many Requests"),
    mark("Internal Server Error"),
    mark("Service Unavailable"),
    mark("The browser (or proxy) sent a request that this server could not understand."),
    mark(
        "You don't have the permission to access the requested resource. "
        "It is either read-protected or not readable by the server."
    ),
    mark(
        "The requested URL was not found on the server. "
        "If you entered the URL manually please check your spelling and try again."
    ),
    mark("The method is not allowed for the requested URL."),
    mark(
        "The server encountered an internal error and was unable to complete your request. "
        "Either the server is overloaded or there is an error in the application."
    ),
)
