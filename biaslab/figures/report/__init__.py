"""Reports: one HTML file of a run that asks nobody for anything. They measure nothing.

:mod:`biaslab.workflows.make_report` opens what they show.
"""
