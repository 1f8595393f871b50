"""Texts that libraries and services write and the pages show, named here to be translated."""

from __future__ import annotations


def mark(text: str) -> str:
    """Return `text`, which is thereby found when texts to translate are collected."""
    return text


#: What stands in `{}` is kept.
FROM_ELSEWHERE: tuple[str, ...] = (
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
    mark("Must be one of: {choices}."),
    mark("Longer than maximum length {max}."),
    mark("Shorter than minimum length {min}."),
    mark("Length must be between {min} and {max}."),
    mark("Must be greater than or equal to {min}."),
    mark("Must be less than or equal to {max}."),
    mark("Must be greater than or equal to {min} and less than or equal to {max}."),
    # HTTP's own words, as titles of error pages
    mark("Bad Request"),
    mark("Forbidden"),
    mark("Not Found"),
    mark("Method Not Allowed"),
    mark("Conflict"),
    mark("Gone"),
    mark("Precondition Failed"),
    mark("Content Too Large"),
    mark("Request Entity Too Large"),
    mark("Unprocessable Content"),
    mark("Unprocessable Entity"),
    mark("Too Many Requests"),
    mark("Internal Server Error"),
    mark("Service Unavailable"),
)
