"""The connection to a broker: packets, the durable session, its states, probes of the broker, certificates."""
