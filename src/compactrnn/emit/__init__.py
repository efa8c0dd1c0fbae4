"""Writing programs: values, operations and the functions composed of them; knows neither torch nor any file."""
