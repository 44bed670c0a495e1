"""Forms of referring-expression annotations, one file each; `biaslab.datasets.reader` says what a reader is."""
