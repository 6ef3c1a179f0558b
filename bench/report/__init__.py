"""Tables, plots and pages, for any figures."""
