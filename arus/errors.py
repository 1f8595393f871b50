"""All errors of Arus, as one tree.

    ArusError
    ├── SettingError                 a setting has a value that is not accepted
    ├── RegistrationError            a model can't be registered as asked
    ├── NotInitialisedError          the extension was used with an app it doesn't know
    ├── TopicError                   a topic name or filter breaks the MQTT rules
    ├── CaptureError                 a change can't be captured, so it is refused
    ├── MalformedPacketError         the broker sent bytes that are not MQTT
    ├── UnsupportedClientError       the installed paho-mqtt lacks internals that the session depends on
    ├── UnsupportedSQLAlchemyError   the installed SQLAlchemy lacks internals that the capture depends on
    ├── SessionError                 the MQTT session ended or could not begin
    │   ├── ConnectError             the broker could not be reached
    │   │   └── ProtocolRefusedError the broker does not speak this version of MQTT
    │   ├── RefusedError             the broker answered CONNECT with a refusal
    │   ├── TakenOverError           another client uses the same client id
    │   └── ConnectionLostError      an established connection ended
    │       └── SessionMismatchError the broker's half of the session does not match the log
    ├── LeadershipLostError          another process has taken over the session
    ├── StandbyEndedError            a standby process stopped waiting for the lock
    ├── EpochError                   a new epoch can't begin now
    ├── LogUnavailableError          the database with the change log can't be used now
    │   └── DiskFullError            the disk of the database is full
    ├── BackupError                  the database can't be copied
    ├── DrillError                   an outage can't be rehearsed
    ├── CatchupError                 a catch-up can't be requested or found
    │   ├── CatchupRequestError      the request is malformed
    │   ├── CatchupBusyError         too many catch-ups are queued already
    │   ├── CatchupOffError          nothing is captured here, so there is nothing to send
    │   └── UnknownCatchupError      there is no such catch-up
    ├── AuditError                   the tables' digest can't be computed
    ├── ProposalError                a proposal can't be made, or is not accepted
    ├── FollowError                  an application can't follow as asked
    ├── FleetError                   nothing is known here of what was asked for of a fleet
    │   ├── NotAshoreError           a vessel has no fleet
    │   └── UnknownVesselError       no such vessel is followed
    ├── RefusedMessageError          an inbound message is not one that a vessel publishes
    │   └── MissingDictionaryError   it is compressed with a dictionary that is not here
    ├── UnknownMessageError          there is no such dead letter, or no handler for it
    └── ChangeError                  a change can't be retried or discarded
        ├── UnknownChangeError       the log has no such change
        ├── NotQuarantinedError      it is not quarantined
        └── UnsendableChangeError    sending it would be useless or harmful

The first line of a class's docstring is the default message.
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
    """The installed paho-mqtt lacks internals that the session depends on."""


class UnsupportedSQLAlchemyError(ArusError):
    """The installed SQLAlchemy lacks internals that the capture depends on."""


#: Between what is wrong and what to do about it, in the message of a SessionError.
FIX = "; fix: "


class SessionError(ArusError):
    """The MQTT session failed.

    :param says: what is wrong, in one line without credentials.
    :param fix: what to do about it; None if there is nothing to say.
    """

    def __init__(self, says: str | None = None, *, fix: str | None = None) -> None:
        super().__init__(says)
        self.says = str(self)
        self.fix = fix
        if fix is not None:
            self.args = (f"{self.says}{FIX}{fix}",)


class ConnectError(SessionError):
    """The broker could not be reached."""


class ProtocolRefusedError(ConnectError):
    """The broker does not speak MQTT 5; trying 3.1.1."""


class RefusedError(SessionError):
    """The broker refused the connection.

    :param reason: the name of its reason code.
    :param code: reason code of CONNACK (MQTT 5, 3.2.2.2).
    """

    def __init__(self, reason: str, code: int, *, fix: str | None = None) -> None:
        self.code = code
        super().__init__(f"the broker refused the connection: {reason}", fix=fix)


#: How the message of a TakenOverError begins.
ANOTHER_CLIENT = "another client uses the client id"
#: What to do about it.
ONE_ID_EACH = (
    "give each vessel a VESSEL_ID of its own, and each follower a name of its own; MQTT_CLIENT_ID, where it is set, must"
    " differ too"
)


class TakenOverError(SessionError):
    """Another client uses the same client id."""

    def __init__(self, client_id: str) -> None:
        super().__init__(f"{ANOTHER_CLIENT} {client_id}", fix=ONE_ID_EACH)


class ConnectionLostError(SessionError):
    """The connection to the broker was lost.

    :param code: reason code of the broker's DISCONNECT; None if it sent none.
    :param hung_up: the broker's side closed it, with or without a DISCONNECT.
    """

    def __init__(
        self,
        reason: str,
        code: int | None = None,
        *,
        hung_up: bool = False,
        fix: str | None = None,
    ) -> None:
        self.code = code
        self.hung_up = hung_up
        super().__init__(reason, fix=fix)


class SessionMismatchError(ConnectionLostError):
    """The broker's half of the session does not match the log."""

    def __init__(self) -> None:
        super().__init__("the broker's half of the session does not match the log")


class LeadershipLostError(ArusError):
    """Another process owns the session now."""


class StandbyEndedError(ArusError):
    """Another process holds the lock, and this one has stopped waiting for it."""


class DrillError(ArusError):
    """An outage can't be rehearsed."""


class EpochError(ArusError):
    """A new epoch can't begin now."""


class LogUnavailableError(ArusError):
    """The database that holds the change log can't be used at the moment."""


class DiskFullError(LogUnavailableError):
    """The disk that holds the change log is full."""


class BackupError(ArusError):
    """The database can't be copied."""


class CatchupError(ArusError):
    """The catch-up can't be requested or found."""


class CatchupRequestError(CatchupError):
    """The request for a catch-up is malformed.

    :param errors: error messages by the request's key; `_schema` for the request as a whole.
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
    """Too many catch-ups are queued already; try again once some of them are complete."""


class CatchupOffError(CatchupError):
    """There is nothing to send here: LOCAL_MODE is false, so no changes are captured."""


class UnknownCatchupError(CatchupError):
    """There is no such catch-up."""

    def __init__(self, catchup_id: str) -> None:
        self.catchup_id = catchup_id
        super().__init__(f"there is no catch-up {catchup_id[:40]!r}")


class AuditError(ArusError):
    """Changes are committed faster than they can be numbered; no consistent digest could be computed."""


class ProposalError(ArusError):
    """The proposal is not accepted."""


class FollowError(ArusError):
    """The application can't follow a vessel."""


class FleetError(ArusError):
    """Nothing is known here of that."""


class NotAshoreError(FleetError):
    """A vessel has no fleet: only the shore (LOCAL_MODE is false) knows a fleet."""


class UnknownVesselError(FleetError):
    """There is no such vessel."""

    def __init__(self, vessel_id: str) -> None:
        self.vessel_id = vessel_id
        super().__init__(f"there is no vessel {vessel_id[:64]!r} here")


class RefusedMessageError(ArusError):
    """The message is not one that a vessel publishes."""


class MissingDictionaryError(RefusedMessageError):
    """The message is compressed with a dictionary that is not here."""

    def __init__(self, dictionary_id: int) -> None:
        self.dictionary_id = dictionary_id
        super().__init__(f"it is compressed with dictionary {dictionary_id}, which is not here")


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
    """Sending the change would be useless or harmful."""


class UnknownMessageError(ArusError):
    """There is no such dead letter."""
