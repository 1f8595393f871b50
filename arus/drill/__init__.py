"""An outage, rehearsed on a copy of the database: how much it holds, and how long the link needs afterwards."""
