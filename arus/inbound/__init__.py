"""Inbound messages: subscriptions and their handlers, the router, dead letters, and proposals."""
