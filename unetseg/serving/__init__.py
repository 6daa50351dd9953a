"""A bundle behind HTTP, and the app in the browser."""
