"""A broker in memory, which a test or a drill inspects and controls."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from arus.errors import RefusedError
from arus.protocol.topics import validate_name

from .memory_sessions import Published, SessionBroker

#: Reason code of MQTT 5, section 2.4.
NOT_AUTHORIZED = 0x87


class MemoryBroker(SessionBroker):
    """Receives and acknowledges what the relay publishes, in place of a broker on the network.

    All methods may be called from any thread.
    """

    # -- what it has received -----------------------------------------------------------------------

    @property
    def messages(self) -> list[Published]:
        """All messages published so far by any client, in order: changes, catch-ups, statuses."""
        with self._changed:
            return list(self._messages)

    @property
    def retained(self) -> dict[str, Published]:
        """The retained message of each topic that has one."""
        with self._changed:
            return dict(self._retained)

    @property
    def subscriptions(self) -> set[str]:
        """The filters that the application subscribes to."""
        with self._changed:
            return {name for client in self._clients.values() for name in client.filters}

    @property
    def connected(self) -> bool:
        """Whether the relay is connected."""
        with self._changed:
            return any(client.session is not None for client in self._clients.values())

    @property
    def attempts(self) -> int:
        """The number of attempts of the relay to connect."""
        with self._changed:
            return self._attempts

    @property
    def endings(self) -> int:
        """How often a connection has ended, or an attempt to connect has failed."""
        with self._changed:
            return self._endings

    @property
    def is_served(self) -> bool:
        """Whether the relay is connected and has subscribed, so that it receives inbound messages."""
        with self._changed:
            return any(client.subscribed for client in self._clients.values())

    @property
    def is_reached(self) -> bool:
        """Whether an attempt to connect would succeed."""
        with self._changed:
            return not self._offline and self._refusal is None

    @property
    def holds_acknowledgements(self) -> bool:
        """Whether acknowledgements are held back at present."""
        with self._changed:
            return self._holding

    @property
    def unacknowledged(self) -> int:
        """The number of messages that applications have not acknowledged, as their handlers have not returned."""
        with self._changed:
            return sum(client.unacknowledged for client in self._clients.values())

    @property
    def with_handlers(self) -> int:
        """The number of these whose application is connected."""
        with self._changed:
            connected = [one for one in self._clients.values() if one.session is not None]
            return sum(client.unacknowledged for client in connected)

    def wait_for(self, condition: Callable[[MemoryBroker], object], timeout: float = 10.0) -> None:
        """Wait until a condition holds; it is checked after each event.

        :raises TimeoutError: the condition did not hold within `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: bool(condition(self)), timeout):
                raise TimeoutError(f"not within {timeout:g} s; {len(self._messages)} messages")

    # -- how it behaves -----------------------------------------------------------------------------

    def go_offline(self) -> None:
        """Close the connection, and be unreachable until `go_online`."""
        with self._changed:
            self._offline = True
            self._end("the connection was lost")

    def go_online(self) -> None:
        """Be reachable again, and accept connections."""
        with self._changed:
            self._offline, self._refusal = False, None
            self._changed.notify_all()

    def hang_up(self) -> None:
        """Close the connection once; the next attempt to connect succeeds and resumes the session."""
        with self._changed:
            self._end("the broker closed the connection")

    def refuse_connections(
        self, reason: str = "Not authorized", code: int = NOT_AUTHORIZED
    ) -> None:
        """Close the present connection, and answer each CONNECT with a refusal until `go_online`."""
        with self._changed:
            self._refusal = RefusedError(reason, code)
            self._end("the broker closed the connection")

    def reject(self, topic: str, code: int = NOT_AUTHORIZED) -> None:
        """Refuse messages on a topic from now on, with a reason code; 0 accepts them again."""
        with self._changed:
            self._rejected[validate_name(topic)] = code

    def hold_acknowledgements(self) -> None:
        """Accept messages without acknowledging them, until `acknowledge`: they stay in flight."""
        with self._changed:
            self._holding = True

    def acknowledge(self) -> None:
        """Send the acknowledgements that `hold_acknowledgements` has held back, and hold back no more."""
        with self._changed:
            self._holding = False
            for client in self._clients.values():
                held, client.held = client.held, []
                if client.session is not None:
                    client.session.push(*held)

    def forget_sessions(self) -> None:
        """Close the connection and lose all sessions and retained messages, like a broker without persistence."""
        with self._changed:
            self._end("the broker closed the connection")
            self._clients.clear()
            self._retained.clear()

    def publish(
        self, topic: str, payload: object, *, qos: int = 1, retain: bool = False
    ) -> Published:
        """Publish a message as another client; the application receives it if it subscribes to the topic.

        :param payload: bytes are sent as they are, anything else as JSON.
        :param qos: 0 or 1.
        """
        data = payload if isinstance(payload, bytes) else orjson.dumps(payload)
        with self._changed:
            return self._take(validate_name(topic), data, qos=qos, retain=retain, client_id="")
