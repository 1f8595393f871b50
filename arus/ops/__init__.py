"""How the sync is seen from outside: health, metrics, forecasts, and the doctor."""
