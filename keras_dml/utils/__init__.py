"""Small helpers without a home in one of the other packages."""
