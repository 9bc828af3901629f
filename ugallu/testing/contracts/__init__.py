"""One battery per port: every implementation, real or fake, passes the same tests."""
