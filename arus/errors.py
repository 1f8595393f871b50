"""Everything that can go wrong, as one tree.

    ArusError
    ├── SettingError                 a setting has a value that is not accepted
    ├── RegistrationError            a model can't be registered as asked
    ├── NotInitialisedError          the extension was used with an app it doesn't know
    ├── TopicError                   a topic name or filter breaks the MQTT rules
    ├── CaptureError                 a change can't be captured, so it is refused
    ├── MalformedPacketError         the broker sent bytes that are not MQTT
    ├── UnsupportedClientError       the installed paho-mqtt lacks what the session relies on
    ├── SessionError                 the MQTT session ended or could not begin
    │   ├── ConnectError             the broker could not be reached
    │   │   └── ProtocolRefusedError the broker does not speak this version of MQTT
    │   ├── RefusedError             the broker answered CONNECT with a refusal
    │   ├── TakenOverError           another client uses the same client id
    │   └── ConnectionLostError      an established connection ended
    ├── OwnershipLostError           another process has taken over the session
    ├── StandbyEndedError            a process that stood by is to wait no longer
    ├── LogUnavailableError          the database with the change log can't be used now
    ├── CatchupError                 a catch-up can't be asked for or found
    │   ├── CatchupRequestError      the request is malformed
    │   ├── CatchupBusyError         too many wait already
    │   ├── CatchupOffError          nothing is captured here, so there is nothing to send
    │   └── UnknownCatchupError      there is no such catch-up
    ├── AuditError                   the tables' digest can't be told
    ├── ProposalError                a proposal can't be made, or is not accepted
    ├── FollowError                  an application can't follow as asked
    ├── RefusedMessageError          an inbound message is not what a vessel publishes
    ├── UnknownMessageError          there is no such parked message, or nobody to hand it to
    └── ChangeError                  a change can't be retried or discarded
        ├── UnknownChangeError       the log has no such change
        ├── NotQuarantinedError      it is not quarantined
        └── UnsendableChangeError    sending it would be no use, or do harm

The first line of a class's docstring is its message where none is given.
"""

from __future__ import annotations


class ArusError(Exception):
    """Reliable sync failed."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").partition("\n")[0])


class SettingError(ArusError):
    """A setting has a value that is not accepted."""

    def __init__(self, name: str, value: str, accepted: str) -> None:
        self.name = name
        self.value = value
        self.accepted = accepted
        super().__init__(f"{name}={value!r} is not accepted; it takes {accepted}")


class RegistrationError(ArusError):
    """The model can't be registered."""


class NotInitialisedError(ArusError):
    """Reliable sync is not initialised for this application; call sync.init_app(app, db) first."""


class TopicError(ArusError):
    """The topic name or filter breaks the rules of MQTT 5, section 4.7."""


class CaptureError(ArusError):
    """The statement would change rows that reliable sync could not capture."""


class MalformedPacketError(ArusError):
    """The broker sent a packet that is not MQTT."""


class UnsupportedClientError(ArusError):
    """The installed paho-mqtt lacks internals that the session relies on."""


class SessionError(ArusError):
    """The MQTT session failed."""


class ConnectError(SessionError):
    """The broker could not be reached."""


class ProtocolRefusedError(ConnectError):
    """The broker does not speak MQTT 5; trying 3.1.1."""


class RefusedError(SessionError):
    """The broker refused the connection."""

    def __init__(self, reason: str, code: int) -> None:
        self.code = code
        super().__init__(f"the broker refused the connection: {reason}")


class TakenOverError(SessionError):
    """Another client uses the same client id."""

    def __init__(self, client_id: str) -> None:
        super().__init__(
            f"another client uses the client id {client_id}: give each vessel a VESSEL_ID of its own,"
            " and each follower a name of its own"
        )


class ConnectionLostError(SessionError):
    """The connection to the broker was lost.

    :param code: reason code of the broker's DISCONNECT; None without one.
    :param hung_up: the broker's side ended it, with or without a word.
    """

    def __init__(self, reason: str, code: int | None = None, *, hung_up: bool = False) -> None:
        self.code = code
        self.hung_up = hung_up
        super().__init__(reason)


class OwnershipLostError(ArusError):
    """Another process owns the session now."""


class StandbyEndedError(ArusError):
    """Another process holds the lock, and it is to be waited for no longer."""


class LogUnavailableError(ArusError):
    """The database that holds the change log can't be used at the moment."""


class CatchupError(ArusError):
    """The catch-up can't be asked for or found."""


class CatchupRequestError(CatchupError):
    """The request for a catch-up is malformed.

    :param errors: what is wrong, by the request's key; `_schema` for the request as a whole.
    """

    def __init__(self, errors: dict[str, list[str]]) -> None:
        self.errors = errors
        super().__init__(
            "; ".join(
                " ".join(messages) if key == "_schema" else f"{key}: {' '.join(messages)}"
                for key, messages in errors.items()
            )
        )


class CatchupBusyError(CatchupError):
    """Too many catch-ups wait for their turn already; ask again once some of them are complete."""


class CatchupOffError(CatchupError):
    """There is nothing to send here: LOCAL_MODE is false, so no changes are captured."""


class UnknownCatchupError(CatchupError):
    """There is no such catch-up."""

    def __init__(self, catchup_id: str) -> None:
        self.catchup_id = catchup_id
        super().__init__(f"there is no catch-up {catchup_id[:40]!r}")


class AuditError(ArusError):
    """Changes are committed faster than numbers can be given to them; no moment could be told for the digest."""


class ProposalError(ArusError):
    """The proposal is not accepted."""


class FollowError(ArusError):
    """The application can't follow a vessel."""


class RefusedMessageError(ArusError):
    """The message is not one that a vessel publishes."""


class ChangeError(ArusError):
    """The change can't be retried or discarded."""


class UnknownChangeError(ChangeError):
    """The log has no such change."""

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        super().__init__(f"there is no change {message_id[:40]!r} in the log")


class NotQuarantinedError(ChangeError):
    """The change is not quarantined."""

    def __init__(self, message_id: str, state: str) -> None:
        self.message_id = message_id
        self.state = state
        super().__init__(
            f"change {message_id} is {state}: only a quarantined one can be retried or discarded"
        )


class UnsendableChangeError(ChangeError):
    """Sending the change would be no use, or do harm."""


class UnknownMessageError(ArusError):
    """There is no such parked message."""
