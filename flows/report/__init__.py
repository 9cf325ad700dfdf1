"""The report: what the lake of a dataset holds, as one HTML page that needs nothing but a browser."""
