"""The app of the examples."""

from howdah.jobs.app import App

app = App(
    import_paths=[
        "howdah.jobs.examples.hello",
        "howdah.jobs.examples.review.document",
        "howdah.jobs.examples.review.report",
    ]
)
