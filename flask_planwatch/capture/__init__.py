"""All that runs on the application's thread."""
