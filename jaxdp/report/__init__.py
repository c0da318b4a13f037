"""Reports: terminal output, metric writers, plots and the HTML page."""
