"""Output for people and dashboards: terminal, metric writers, plots and the HTML report."""
