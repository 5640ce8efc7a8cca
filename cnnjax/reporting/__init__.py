"""Reports: tables, curves, pictures and HTML pages, made from the files of a run."""
