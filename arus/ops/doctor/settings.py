"""The check of the settings."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from arus.settings import SETTINGS, Settings

from .finding import Finding, Verdict


def check_settings(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Check for misspelt settings, and for those that are accepted and unsafe."""
    unknown = sorted(
        name for name in environment if name.startswith("MQTT_") and name not in SETTINGS
    )
    for name in unknown:
        meant = difflib.get_close_matches(name, SETTINGS, 1)
        yield Finding(
            "settings",
            Verdict.WARN,
            f"{name} is set, but there is no such setting",
            f"did you mean {meant[0]}?" if meant else f"the settings are {', '.join(SETTINGS)}",
        )
    broker = settings.broker
    if not settings.local_mode:
        yield Finding(
            "settings",
            Verdict.OK,
            "LOCAL_MODE is false: nothing is captured or sent, which is right ashore",
        )
    elif broker.tls and not settings.tls_verify:
        yield Finding(
            "settings",
            Verdict.WARN,
            "MQTT_TLS_REJECT_UNAUTHORIZED is false: the broker's certificate is not verified",
            "set MQTT_TLS_CA to the CA of the broker's certificate, and remove this setting",
        )
    elif settings.password and not broker.tls and not _is_here(broker.host):
        yield Finding(
            "settings",
            Verdict.WARN,
            f"the password is sent to {broker.host} unencrypted",
            "use mqtts:// or wss:// in MQTT_BROKER_URL",
        )
    elif not unknown:
        yield Finding("settings", Verdict.OK, "all are valid")


def _is_here(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")
