"""Who may use the application: people, tokens of programs, and what each may do."""
