"""Reports: tables, plots, benchmarks, the demo, and sweeps."""
