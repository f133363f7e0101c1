"""The interactive report: one HTML file that opens from disk and asks nothing of any network."""
