"""What is checked before and while a model trains: its kind, its examples, its derivatives."""
