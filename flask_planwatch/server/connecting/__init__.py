"""Opens a connection that plans as the application's."""
