"""Program, model file and engine; requires only NumPy."""
