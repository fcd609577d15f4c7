"""What a tape refuses, because scores would be wrong."""
