"""Bundle + pairs → scores."""
