"""The application's features, one package each."""
