"""Program, file and engine; needs numpy alone."""
