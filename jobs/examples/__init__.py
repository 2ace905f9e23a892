"""Example workflows; `howdah.jobs.examples.app:app` is what a worker runs unless it is given an app of yours."""
