"""What more than one question needs."""
