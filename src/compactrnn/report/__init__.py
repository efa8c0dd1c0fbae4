"""Reports: tables, plots, benchmarks and the demo."""
