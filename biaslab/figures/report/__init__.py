"""Reports: one HTML file of a run, with no request to anywhere. It measures nothing; :mod:`biaslab.workflows.make_report`
opens what it shows."""
