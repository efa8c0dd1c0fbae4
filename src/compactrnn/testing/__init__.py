"""Contracts that every weight, cell, compressor and runtime keeps."""
