"""Bundle + images → masks."""
