"""The API's description for people."""
