"""A recorded run: written while it trains, read and replayed afterwards."""
